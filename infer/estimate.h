/* estimate.h - from the weights that futures give an outcome (rollout.h) to a risk with its sampling error. */
#ifndef EHR_INFER_ESTIMATE_H
#define EHR_INFER_ESTIMATE_H
#include "infer/rollout.h"

typedef struct {
    double risk;   /* mean over samples */
    double mc_se;  /* its standard error: sampling of futures only, not of patients or training */
    double lo, hi; /* 95%: Wilson for mc, normal otherwise, clipped to [0, 1] */
} RiskEstimate;

/* values (n): of each future, in sample order.  looks: how many times the sampling might have ended, 1 when n was fixed
 * beforehand.  With more the interval is wider, 1 - .05/looks, so that it holds whichever look was the last
 * (Bonferroni). */
RiskEstimate risk_estimate(Estimator e, const double *values, int n, int looks);
/* The same of a mean that is no probability, such as a paired difference: normal, not clipped. */
RiskEstimate mean_estimate(const double *values, int n, int looks);
/* The standard error that --target-se looks at.  mc's own is 0 as long as nothing has happened; this one counts two
 * more futures that hit and two that do not (Agresti and Coull 1998). */
double risk_se_to_stop(Estimator e, const double *values, int n);
/* Looks at first, 2 first, 4 first ... up to most samples. */
int look_count(int first, int most);
/* x with P(Z <= x) = p, for 0 < p < 1. */
double normal_quantile(double p);

#endif
