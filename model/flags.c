/* flags.c - see flags.h. */
#include "model/flags.h"
#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- values ------------------------------------------------------------------------------------------------------ */

static int one_of(const char *choices, const char *text) {
    size_t n = strchr(text, '|') ? 0 : strlen(text);
    for (const char *c = choices; n && c; c = strchr(c, '|'), c = c ? c + 1 : NULL)
        if (!strncmp(c, text, n) && (c[n] == '|' || !c[n])) return 1;
    return 0;
}

static Status bad(const Flag *f, const char *text, const char *want, Err *err) {
    return err_set(err, ERR_USAGE, "%s takes %s, not '%s'", f->name, want, text);
}

static Status check_range(const Flag *f, double x, const char *text, Err *err) {
    if ((f->min != 0 || f->max != 0) && (x < f->min || x > f->max))
        return err_set(err, ERR_USAGE, "%s must be between %g and %g, not %s", f->name, f->min, f->max, text);
    return OK;
}

static Status parse_scaled(const Flag *f, const char *text, const char *want, int64_t *out, double (*unit)(const char *),
                           Err *err) {
    char *end;
    errno = 0;
    double x = strtod(text, &end);
    double scale = end == text ? NAN : unit(end);
    if (!isfinite(x) || isnan(scale)) return bad(f, text, want, err);
    x *= scale;
    if (fabs(x) > 9e18) return err_set(err, ERR_USAGE, "%s %s is too large", f->name, text);
    Status s = check_range(f, x, text, err);
    if (!s && !f->min && !f->max && x < 0) s = bad(f, text, want, err);
    if (!s) *out = (int64_t)llround(x);
    return s;
}

static double size_unit(const char *s) {
    static const struct { const char *name; double scale; } units[] = {
        {"", 1}, {"B", 1}, {"K", 1024}, {"KiB", 1024}, {"M", 1048576}, {"MiB", 1048576}, {"G", 1073741824.0},
        {"GiB", 1073741824.0}, {"T", 1099511627776.0}};
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (!strcasecmp(s, units[i].name)) return units[i].scale;
    return NAN;
}

static double duration_unit(const char *s) {
    static const struct { const char *name; double scale; } units[] = {
        {"min", 1}, {"h", 60}, {"d", 1440}, {"w", 10080}, {"y", 525960}};
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (!strcasecmp(s, units[i].name)) return units[i].scale;
    return NAN;
}

static Status parse_value(Flag *f, const char *text, Err *err) {
    char *end;
    switch (f->type) {
    case FLAG_INT: {
        errno = 0;
        long long v = strtoll(text, &end, 10);
        if (end == text || *end || isspace((unsigned char)*text)) return bad(f, text, "a whole number", err);
        if (errno) return err_set(err, ERR_USAGE, "%s %s is too large", f->name, text);
        Status s = check_range(f, (double)v, text, err);
        if (!s) *(int64_t *)f->value = v;
        return s;
    }
    case FLAG_FLOAT: {
        double v = strtod(text, &end);
        if (end == text || *end || !isfinite(v)) return bad(f, text, "a number", err);
        Status s = check_range(f, v, text, err);
        if (!s) *(double *)f->value = v;
        return s;
    }
    case FLAG_BOOL:
        if (one_of("yes|true|1", text)) *(int *)f->value = 1;
        else if (one_of("no|false|0", text)) *(int *)f->value = 0;
        else return bad(f, text, "yes or no", err);
        return OK;
    case FLAG_STRING:
        if (!*text) return bad(f, text, "a value", err);
        *(const char **)f->value = text;
        return OK;
    case FLAG_ENUM: {
        if (!one_of(f->choices, text)) {
            char want[256];
            snprintf(want, sizeof want, "one of %s", f->choices);
            return bad(f, text, want, err);
        }
        *(const char **)f->value = text;
        return OK;
    }
    case FLAG_SIZE: return parse_scaled(f, text, "a size such as 512M or 2G", f->value, size_unit, err);
    case FLAG_DURATION: return parse_scaled(f, text, "a duration such as 90min, 12h, 365d or 2y", f->value, duration_unit, err);
    case FLAG_LIST: {
        StringList *l = f->value;
        if (l->n == STRING_LIST_MAX) return err_set(err, ERR_USAGE, "%s given more than %d times", f->name, STRING_LIST_MAX);
        l->item[l->n++] = text;
        return OK;
    }
    }
    return err_set(err, ERR_USAGE, "%s has no type", f->name);
}

/* ---- names ------------------------------------------------------------------------------------------------------- */

int text_distance(const char *a, const char *b) {
    enum { MAX = 64 };
    int row[MAX + 1];
    size_t na = strlen(a), nb = strlen(b);
    if (na > MAX || nb > MAX) return MAX;
    for (size_t j = 0; j <= nb; j++) row[j] = (int)j;
    for (size_t i = 1; i <= na; i++) {
        int diag = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= nb; j++) {
            int up = row[j], best = diag + (a[i - 1] != b[j - 1]);
            if (up + 1 < best) best = up + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diag = up;
            row[j] = best;
        }
    }
    return row[nb];
}

static Status unknown_flag(const Flag *flags, int n, const char *name, Err *err) {
    const char *near = NULL;
    int best = 1 << 20;
    for (int i = 0; i < n; i++) {
        int d = text_distance(flags[i].name, name);
        if (d < best) {
            best = d;
            near = flags[i].name;
        }
    }
    if (near && best <= 1 + (int)strlen(name) / 3)
        return err_set(err, ERR_USAGE, "unknown flag %s: did you mean %s? (--help lists all)", name, near);
    return err_set(err, ERR_USAGE, "unknown flag %s (--help lists all)", name);
}

Status flags_parse(Flag *flags, int n, int argc, char **argv, const char **pos, int pos_max, int *n_pos, int *help,
                   Err *err) {
    int count = 0;
    *help = 0;
    for (int i = 0; i < argc; i++) {
        char *arg = argv[i];
        if (!strcmp(arg, "--help") || !strcmp(arg, "-h")) {
            *help = 1;
            continue;
        }
        if (arg[0] != '-' || !arg[1]) {
            if (count == pos_max) return err_set(err, ERR_USAGE, "unexpected argument '%s'", arg);
            pos[count++] = arg;
            continue;
        }
        char name[80];
        const char *eq = strchr(arg, '=');
        snprintf(name, sizeof name, "%.*s", eq ? (int)(eq - arg) : (int)strlen(arg), arg);
        Flag *f = NULL;
        for (int k = 0; k < n && !f; k++)
            if (!strcmp(flags[k].name, name)) f = &flags[k];
        if (!f) return unknown_flag(flags, n, name, err);
        if (f->seen && f->type != FLAG_LIST) return err_set(err, ERR_USAGE, "%s given twice", name);
        f->seen = 1;
        const char *text = eq ? eq + 1 : NULL;
        if (!text && f->type == FLAG_BOOL) text = "yes";
        if (!text) {
            if (i + 1 == argc) return err_set(err, ERR_USAGE, "%s needs a value: %s", name, f->help);
            text = argv[++i];
        }
        Status s = parse_value(f, text, err);
        if (s) return s;
    }
    if (n_pos) *n_pos = count;
    return OK;
}

/* ---- printing ---------------------------------------------------------------------------------------------------- */

static void value_text(const Flag *f, char *out, size_t size) {
    switch (f->type) {
    case FLAG_INT: snprintf(out, size, "%lld", (long long)*(int64_t *)f->value); break;
    case FLAG_FLOAT: snprintf(out, size, "%g", *(double *)f->value); break;
    case FLAG_BOOL: snprintf(out, size, "%s", *(int *)f->value ? "yes" : "no"); break;
    case FLAG_STRING:
    case FLAG_ENUM: snprintf(out, size, "%s", *(const char **)f->value ? *(const char **)f->value : ""); break;
    case FLAG_SIZE: {
        int64_t v = *(int64_t *)f->value;
        if (v && v % 1073741824 == 0) snprintf(out, size, "%lldG", (long long)(v >> 30));
        else if (v && v % 1048576 == 0) snprintf(out, size, "%lldM", (long long)(v >> 20));
        else snprintf(out, size, "%lld", (long long)v);
        break;
    }
    case FLAG_DURATION: {
        int64_t v = *(int64_t *)f->value;
        if (v % 1440 == 0) snprintf(out, size, "%lldd", (long long)v / 1440);
        else snprintf(out, size, "%lldmin", (long long)v);
        break;
    }
    case FLAG_LIST: {
        const StringList *l = f->value;
        size_t at = 0;
        out[0] = 0;
        for (int i = 0; i < l->n && at < size; i++) at += (size_t)snprintf(out + at, size - at, i ? ", %s" : "%s", l->item[i]);
        break;
    }
    }
}

void flags_help(const Flag *flags, int n, const char *usage, const char *about, FILE *out) {
    fprintf(out, "%s\n\nusage: %s\n%s\n%s", PIPELINE_LINE, usage, about, n ? "\n" : "");
    for (int i = 0; i < n; i++) {
        static const char *kind[] = {"N", "X", "", "TEXT", "", "SIZE", "TIME", "TEXT"};
        char left[128], def[256];
        const char *k = flags[i].type == FLAG_ENUM ? flags[i].choices : kind[flags[i].type];
        snprintf(left, sizeof left, "%s %s", flags[i].name, k);
        value_text(&flags[i], def, sizeof def);
        fprintf(out, "  %-30s%s%s", left, strlen(left) > 30 ? "\n                                " : " ", flags[i].help);
        if (def[0] && !(flags[i].type == FLAG_BOOL && !strcmp(def, "no"))) fprintf(out, " [%s]", def);
        fputc('\n', out);
    }
}

void flags_print(const Flag *flags, int n, FILE *out) {
    int width = 0;
    for (int i = 0; i < n; i++) width = (int)strlen(flags[i].name) > width ? (int)strlen(flags[i].name) : width;
    for (int i = 0; i < n; i++) {
        char v[512];
        value_text(&flags[i], v, sizeof v);
        if (v[0]) fprintf(out, "  %c %-*s  %s\n", flags[i].seen ? '*' : ' ', width - 2, flags[i].name + 2, v);
    }
}

char *flags_json(const Flag *flags, int n) {
    json_t *o = json_object();
    for (int i = 0; i < n; i++) {
        const char *name = flags[i].name + 2;
        switch (flags[i].type) {
        case FLAG_INT:
        case FLAG_SIZE:
        case FLAG_DURATION: json_object_set_new(o, name, json_integer(*(int64_t *)flags[i].value)); break;
        case FLAG_FLOAT: json_object_set_new(o, name, json_real(*(double *)flags[i].value)); break;
        case FLAG_BOOL: json_object_set_new(o, name, json_boolean(*(int *)flags[i].value)); break;
        case FLAG_LIST: {
            json_t *a = json_array();
            const StringList *l = flags[i].value;
            for (int k = 0; k < l->n; k++) json_array_append_new(a, json_string(l->item[k]));
            json_object_set_new(o, name, a);
            break;
        }
        default: {
            const char *s = *(const char **)flags[i].value;
            json_object_set_new(o, name, s ? json_string(s) : json_null());
        }
        }
    }
    char *text = json_dumps(o, JSON_COMPACT | JSON_SORT_KEYS);
    json_decref(o);
    return text;
}

/* ---- commands ---------------------------------------------------------------------------------------------------- */

int command_main(const Command *commands, int n, const char *program, const char *about, int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "--help";
    if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help")) {
        FILE *out = argc > 1 ? stdout : stderr;
        fprintf(out, "%s\n\nusage: %s COMMAND [ARGUMENTS]   (%s COMMAND --help)\n%s\n\n", PIPELINE_LINE, program, program,
                about);
        for (int i = 0; i < n; i++) fprintf(out, "  %-12s %s\n", commands[i].name, commands[i].about);
        return argc > 1 ? 0 : 2;
    }
    int best = 0;
    for (int i = 0; i < n; i++) {
        if (!strcmp(commands[i].name, name)) {
            Err err = {OK, ""};
            Status s = commands[i].run(argc - 2, argv + 2, &err);
            if (s) fprintf(stderr, "%s %s: %s\n", program, name, err.msg);
            if (!s && (fflush(stdout) || ferror(stdout))) {
                fprintf(stderr, "%s %s: cannot write to standard output: is the disk full?\n", program, name);
                return 1;
            }
            return s == OK ? 0 : s == ERR_USAGE ? 2 : 1;
        }
        if (text_distance(commands[i].name, name) < text_distance(commands[best].name, name)) best = i;
    }
    fprintf(stderr, "%s: unknown command '%s': did you mean '%s'? (--help lists all)\n", program, name, commands[best].name);
    return 2;
}
