/* session.c - see session.h. */
#include "infer/session.h"
#include "infer/parts.h"
#include "model/adapter.h"
#include "model/checkpoint.h"
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

Status session_find(const char *path, char **out, Err *err) {
    char *config = xasprintf("%s/config.json", path);
    char *latest = xasprintf("%s/latest/config.json", path);
    const char *found = path_exists(config) ? "" : path_exists(latest) ? "/latest" : NULL;
    free(config);
    free(latest);
    if (!found)
        return err_set(err, path_is_dir(path) ? ERR_FORMAT : ERR_IO,
                       "%s is not a checkpoint: expected a folder with config.json and model.safetensors, such as RUN/latest "
                       "written by `ehr-train`", path);
    char *joined = xasprintf("%s%s", path, found), real[PATH_MAX];
    *out = xstrdup(realpath(joined, real) ? real : joined);
    free(joined);
    return OK;
}

static Status check_vocabulary(Session *s, Err *err) {
    char *text;
    size_t size;
    Status st = checkpoint_read_text(s->checkpoint, "vocabulary.json", &text, &size, err);
    if (st) return st;
    char sha[65];
    bytes_sha256(text, size, sha);
    free(text);
    if (strcmp(sha, s->dataset.vocabulary.sha256))
        return err_set(err, ERR_FORMAT,
                       "the vocabulary of %s is not that of the checkpoint %s: tokenise with `ehr-data tokenize EVENTS "
                       "--vocabulary %s/vocabulary.json`", s->dataset.path, s->checkpoint, s->checkpoint);
    return OK;
}

static Status open_device(Session *s, const SessionFlags *f, DType *out, Err *err) {
    char why[512];
    const char *device = f->device, *dtype = f->dtype;
    int threads = (int)f->threads;
    const Launch ranks = ranks_read();
    const int count = device_count(DEVICE_CUDA), gpus = count > 0 ? count : 1;
    /* OMP_NUM_THREADS is a person's choice; without it ranks share the cores of their host, as far as not bound already. */
    if (!threads && ranks.local_size > 1 && !getenv("OMP_NUM_THREADS")) threads = ranks_threads(&ranks);
    if (!strcmp(device, "cuda") || (!strcmp(device, "auto") && count > 0))
        s->dev = device_open(DEVICE_CUDA, ranks.local_rank % gpus, 0, why, sizeof why);
    if (!s->dev && !strcmp(device, "auto") && count > 0) snprintf(s->why, sizeof s->why, "%s", why);
    if (!s->dev && strcmp(device, "cuda")) s->dev = device_open(DEVICE_CPU, 0, threads, why, sizeof why);
    if (!s->dev) return err_set(err, ERR_DEVICE, "--device %s: %s", device, why);
    int gpu = device_kind(s->dev) == DEVICE_CUDA;
    *out = !strcmp(dtype, "bf16") || (!strcmp(dtype, "auto") && gpu) ? DTYPE_BF16 : DTYPE_F32;
    if (kernels_get(s->dev, *out)) return OK;
    return err_set(err, ERR_USAGE, "--dtype %s: %s does not compute in it; give --dtype f32%s", dtype, device_name(s->dev),
                   gpu ? "" : ", or --device cuda where there is a GPU");
}

/* A cache rounded to 16 bits is a small part of what narrower weights round away already. */
static Status choose_kv_type(Model *m, DType weights, const char *asked, Err *err) {
    const int narrower = dtype_size(weights) < dtype_size(m->dtype);
    DType t = !strcmp(asked, "f32") ? DTYPE_F32 : !strcmp(asked, "bf16") || narrower ? DTYPE_BF16 : m->dtype;
    const size_t bytes = m->k->kv_page_bytes(m->dev, t, m->cfg.n_kv_heads, m->cfg.head_dim);
    if (!bytes && strcmp(asked, "auto"))
        return err_set(err, ERR_USAGE, "--kv-dtype %s: %s, computing in %s, keeps keys and values in %s; leave --kv-dtype out%s", asked,
                       device_name(m->dev), dtype_name(m->dtype), dtype_name(m->dtype),
                       m->dtype == DTYPE_F32 ? ", or give --dtype bf16" : ", or give --dtype f32");
    m->kv_type = bytes ? t : m->dtype;
    return OK;
}

Status session_open(Session *s, const char *path, const char *dataset, const SessionFlags *f, Err *err) {
    *s = (Session){0};
    DType computes_in;
    Status st = session_find(path, &s->checkpoint, err);
    if (st) return st;
    if ((st = open_device(s, f, &computes_in, err))) return st;
    if ((st = checkpoint_verify(s->checkpoint, 0, &s->checked, s->model_sha256, err))) return st;
    if (dataset) {
        if ((st = dataset_open(&s->dataset, dataset, err))) return st;
        s->dataset_open = 1;
        if ((st = check_vocabulary(s, err))) return st;
    }
    s->base = f->base;
    if ((st = checkpoint_load_on(s->checkpoint, s->base, &s->model, s->dev, computes_in, 1, err))) return st;
    s->model_open = 1;
    s->model.graphs = f->graphs;
    if (adapter_there(s->checkpoint)) st = adapter_sha256(s->checkpoint, s->base, s->model_sha256, err);
    else if (!s->model_sha256[0]) st = checkpoint_model_sha256(s->checkpoint, s->model_sha256, err);
    s->weights = !strcmp(f->weights, "int8")   ? DTYPE_I8
                 : !strcmp(f->weights, "bf16") ? DTYPE_BF16
                 : !strcmp(f->weights, "f32")  ? DTYPE_F32
                                               : s->model.dtype;
    if (!st) st = choose_kv_type(&s->model, s->weights, f->kv_type, err);
    if (!st) st = model_prepare(&s->model, s->weights, err);
    s->law = (Law){.model = &s->model, .seq_len = s->model.cfg.seq_len};
    return st;
}

void session_note(const Session *s, FILE *out) {
    fprintf(out, "on %s, in %s", device_name(s->dev), dtype_name(s->model.dtype));
    if (s->weights != s->model.dtype) fprintf(out, ", weights in %s", dtype_name(s->weights));
    if (s->model.kv_type != s->model.dtype) fprintf(out, ", keys and values in %s", dtype_name(s->model.kv_type));
    fprintf(out, "\n");
    if (s->why[0]) fprintf(out, "note: no GPU is used: %s\n", s->why);
    if (!s->checked)
        fprintf(out, "note: %s has no SHA256SUMS: whether its files are as they were saved could not be checked\n", s->checkpoint);
}

void session_close(Session *s) {
    if (s->model_open) model_close(&s->model);
    if (s->dataset_open) dataset_close(&s->dataset);
    if (s->dev) device_close(s->dev);
    free(s->checkpoint);
    *s = (Session){0};
}

Status session_split(const Session *s, const char *text, int *split, Err *err) {
    *split = split_find(text);
    if (*split < 0) return err_set(err, ERR_USAGE, "--split is one of train, tuning, held_out, not '%s'", text);
    if (!s->dataset.n_patients[*split])
        return err_set(err, ERR_USAGE, "the %s split of %s has no patients", split_name(*split), s->dataset.path);
    return OK;
}

Status session_patient(Session *s, const char *text, int *split, int64_t *row, PatientView *out, Err *err) {
    int by_key = !strncmp(text, "key:", 4);
    const char *digits = by_key ? text + 4 : text;
    char *end;
    errno = 0;
    unsigned long long v = strtoull(digits, &end, 10);
    if (end == digits || *end || *digits == '-' || errno)
        return err_set(err, ERR_USAGE, "--patient takes a rank in the split (0, 1, ...) or key:K, not '%s'", text);
    if (by_key) {
        Status st = dataset_find(&s->dataset, v, split, row, err);
        if (st) return st;
    } else {
        if (v >= (unsigned long long)s->dataset.n_patients[*split])
            return err_set(err, ERR_USAGE, "--patient %s: the %s split has patients 0 to %lld", text, split_name(*split),
                           (long long)s->dataset.n_patients[*split] - 1);
        *row = (int64_t)v;
    }
    return dataset_patient(&s->dataset, *split, *row, out, err);
}

static Status index_minutes(const PatientView *p, const char *at, int32_t *out, Err *err) {
    int32_t last = p->n ? p->minutes[p->n - 1] : 0, end = p->observation_end > last ? p->observation_end : last;
    char *rest;
    if (!strcmp(at, "end")) *out = end;
    else if (!strcmp(at, "last-year")) *out = end > 525600 ? end - 525600 : 0;
    else if (!strcmp(at, "last-event")) *out = last;
    else {
        double days = strtod(at, &rest);
        if (rest == at || (*rest && strcmp(rest, "d")) || !isfinite(days) || days < 0 || days > 60000)
            return err_set(err, ERR_USAGE, "--at takes last-year, end, last-event, or days since the first event such as 400d, "
                           "not '%s'", at);
        *out = (int32_t)(days * 1440);
    }
    return OK;
}

Status session_job(Session *s, const PatientFlags *f, RolloutJob *out, Err *err) {
    int split;
    int64_t row;
    *out = (RolloutJob){0};
    Status st = session_split(s, f->split, &split, err);
    if (!st) st = session_patient(s, f->patient, &split, &row, &out->patient, err);
    if (!st) st = index_minutes(&out->patient, f->at, &out->index_minutes, err);
    if (!st) out->n_known = rollout_known(&out->patient, out->index_minutes);
    return st;
}

Status outcome_mark(const Vocabulary *v, const char *name, char *const *codes, int n_codes, int bit, uint32_t *mark,
                    Err *err) {
    if (vocabulary_match(v, (const char *const *)codes, n_codes, 1u << bit, mark) > 0) return OK;
    char near[256];
    vocabulary_nearest(v, n_codes ? codes[0] : "", near, sizeof near);
    return err_set(err, ERR_USAGE, "outcome %s: no token of the vocabulary matches %s%s; the nearest are %s", name,
                   n_codes ? codes[0] : "(no code)", n_codes > 1 ? " or the other codes" : "", near);
}

int outcome_unknown(const Vocabulary *v, char *const *codes, int n_codes, char *out, size_t size) {
    uint32_t *mark = xcalloc((size_t)v->n, sizeof *mark);
    int n = 0;
    size_t used = 0;
    out[0] = 0;
    for (int i = 0; i < n_codes; i++) {
        if (vocabulary_match(v, (const char *const *)&codes[i], 1, 1, mark) > 0) continue;
        if (used < size) used += (size_t)snprintf(out + used, size - used, "%s%s", n ? ", " : "", codes[i]);
        n++;
    }
    free(mark);
    return n;
}

Status outcome_list_mark(const Vocabulary *v, const char *flag, const char *list, int bit, uint32_t *mark, Err *err) {
    char unknown[256], near[256];
    int n;
    char *copy = xstrdup(list), **code = split_all(copy, &n);
    Status s = outcome_mark(v, list, code, n, bit, mark, err);
    if (!s && outcome_unknown(v, code, n, unknown, sizeof unknown)) {
        char *first = xasprintf("%.*s", (int)strcspn(unknown, ","), unknown);
        vocabulary_nearest(v, first, near, sizeof near);
        s = err_set(err, ERR_USAGE, "%s %s: no token of the vocabulary matches %s; nearest to %s are %s; leave out what this model "
                    "does not know", flag, list, unknown, first, near);
        free(first);
    }
    free(code);
    free(copy);
    return s;
}

void minutes_text(double minutes, char *out, size_t size) {
    char sign = minutes < 0 ? '-' : '+';
    int64_t m = (int64_t)llround(fabs(minutes)), days = m / 1440, years = days / 365;
    if (years) snprintf(out, size, "%c%lld y %3lld d", sign, (long long)years, (long long)(days % 365));
    else if (days) snprintf(out, size, "%c%lld d %02d:%02d", sign, (long long)days, (int)(m / 60 % 24), (int)(m % 60));
    else snprintf(out, size, "%c%02d:%02d", sign, (int)(m / 60), (int)(m % 60));
}
