/* estimate.c - see estimate.h. */
#include "infer/estimate.h"
#include <math.h>

double normal_quantile(double p) {
    double lo = -40, hi = 40;
    for (int i = 0; i < 200 && lo < hi; i++) {
        double mid = lo + (hi - lo) / 2;
        if (mid == lo || mid == hi) break;
        if (0.5 * erfc(-mid / sqrt(2)) < p) lo = mid;
        else hi = mid;
    }
    return hi;
}

int look_count(int first, int most) {
    int looks = 1;
    for (int64_t n = first; n < most; n *= 2) looks++;
    return looks;
}

/* Two-sided 95% over all looks. */
static double z_of(int looks) { return looks <= 1 ? 1.959963984540054 : normal_quantile(1 - 0.025 / looks); }

RiskEstimate mean_estimate(const double *values, int n, int looks) {
    double mean = 0, ss = 0;
    for (int i = 0; i < n; i++) mean += values[i];
    mean /= n;
    for (int i = 0; i < n; i++) ss += (values[i] - mean) * (values[i] - mean);
    RiskEstimate r = {.risk = mean};
    r.mc_se = n > 1 ? sqrt(ss / (n - 1) / n) : NAN;
    r.lo = mean - z_of(looks) * r.mc_se;
    r.hi = mean + z_of(looks) * r.mc_se;
    return r;
}

RiskEstimate risk_estimate(Estimator e, const double *values, int n, int looks) {
    RiskEstimate r = mean_estimate(values, n, looks);
    if (e == ESTIMATOR_MC) { /* Wilson 1927 */
        double z = z_of(looks), d = 1 + z * z / n, mid = (r.risk + z * z / (2 * n)) / d;
        double half = z / d * sqrt(r.risk * (1 - r.risk) / n + z * z / (4.0 * n * n));
        r.lo = mid - half;
        r.hi = mid + half;
    }
    if (r.lo < 0) r.lo = 0;
    if (r.hi > 1) r.hi = 1;
    return r;
}

double risk_se_to_stop(Estimator e, const double *values, int n) {
    RiskEstimate r = mean_estimate(values, n, 1);
    if (e != ESTIMATOR_MC) return r.mc_se;
    double m = n + 4.0, p = (r.risk * n + 2) / m;
    return sqrt(p * (1 - p) / m);
}
