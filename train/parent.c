/* parent.c - see parent.h. */
#include "train/parent.h"
#include "model/checkpoint.h"
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { PIECE = 1 << 22 }; /* elements in host memory at a time */

void parent_close(Parent *p) {
    free(p->dir);
    free(p->name);
    free(p->path);
    free(p->provenance);
    *p = (Parent){0};
}

/* folder, a link at its end replaced by the name of what it points at: `latest` will point elsewhere tomorrow. */
static char *recorded_path(const char *folder, const char *real) {
    struct stat st;
    char *path = path_copy(folder), *slash;
    if (lstat(path, &st) || !S_ISLNK(st.st_mode)) return path;
    const char *name = strrchr(real, '/');
    if ((slash = strrchr(path, '/'))) *slash = 0;
    char *out = xasprintf("%s%s%s", slash ? path : "", slash ? "/" : "", name ? name + 1 : real);
    free(path);
    return out;
}

static Status find_folder(Parent *p, const char *dir, Err *err) {
    static const char *const at[] = {"", "/latest"};
    for (int i = 0; i < 2; i++) {
        char *folder = xasprintf("%s%s", dir, at[i]), *config = xasprintf("%s/config.json", folder), real[PATH_MAX];
        const int there = path_exists(config);
        if (there) p->dir = xstrdup(realpath(folder, real) ? real : folder);
        if (there) p->path = recorded_path(folder, p->dir);
        free(folder);
        free(config);
        if (there) return OK;
    }
    return err_set(err, path_is_dir(dir) ? ERR_FORMAT : ERR_IO,
                   "--init %s is no model: expected a folder with config.json and model.safetensors", dir);
}

static void read_provenance(Parent *p) {
    char *text;
    size_t size;
    Err quiet;
    if (checkpoint_read_text(p->dir, "trainer.json", &text, &size, &quiet)) return;
    json_t *o = json_loadb(text, size, 0, NULL), *from = json_object_get(o, "provenance");
    if (from) p->provenance = json_dumps(from, JSON_COMPACT | JSON_PRESERVE_ORDER);
    json_decref(o);
    free(text);
}

Status parent_open(Parent *p, const char *dir, int verify, Err *err) {
    *p = (Parent){0};
    Status s = find_folder(p, dir, err);
    if (!s && verify) s = checkpoint_verify(p->dir, 0, &p->checked, NULL, err);
    if (!s) s = config_read(p->dir, &p->cfg, err);
    if (!s) s = checkpoint_model_sha256(p->dir, p->sha256, err);
    if (s) {
        parent_close(p);
        return s;
    }
    const char *slash = strrchr(p->dir, '/');
    p->name = xasprintf("%s sha256:%.16s", slash ? slash + 1 : p->dir, p->sha256);
    read_provenance(p);
    return OK;
}

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

static int same_token(const VocabToken *a, const VocabToken *b) {
    return !strcmp(a->code, b->code) && !strcmp(a->unit, b->unit) && a->level == b->level &&
           (a->level <= 0 || (a->lo == b->lo && a->hi == b->hi));
}

static Status compare_tokens(const Parent *p, const Vocabulary *theirs, const Vocabulary *ours, const char *data, Err *err) {
    if (theirs->n > ours->n)
        return err_set(err, ERR_USAGE, "--init %s knows %d tokens, --data %s has %d: tokenise with --vocabulary %s/vocabulary.json",
                       p->dir, theirs->n, data, ours->n, p->dir);
    for (int i = 0; i < theirs->n; i++) {
        const VocabToken *a = &theirs->token[i], *b = &ours->token[i];
        if (same_token(a, b)) continue;
        return err_set(err, ERR_USAGE, "token %d is %s in --init %s but %s in --data %s%s: tokenise with --vocabulary "
                                       "%s/vocabulary.json", i, a->code, p->dir, b->code, data,
                       strcmp(a->code, b->code) ? "" : ", with other units or value edges", p->dir);
    }
    return OK;
}

Status parent_check(Parent *p, const Dataset *d, Err *err) {
    char *text, *path = xasprintf("%s/vocabulary.json", p->dir);
    size_t size;
    Vocabulary v;
    p->compared = path_exists(path);
    Status s = OK;
    if (!p->compared) {
        if (p->cfg.vocab_size != d->vocabulary.n)
            s = err_set(err, ERR_USAGE, "--init %s has no vocabulary.json, and %d tokens where --data %s has %d: what its tokens mean "
                                        "is not known", p->dir, p->cfg.vocab_size, d->path, d->vocabulary.n);
    } else if (!(s = checkpoint_read_text(p->dir, "vocabulary.json", &text, &size, err))) {
        s = vocabulary_parse(&v, text, size, path, err);
        free(text);
        if (!s) {
            if (v.n != p->cfg.vocab_size)
                s = err_set(err, ERR_FORMAT, "%s has %d tokens but config.json beside it %d: they do not belong together", path, v.n,
                            p->cfg.vocab_size);
            else
                s = compare_tokens(p, &v, &d->vocabulary, d->path, err);
            vocabulary_free(&v);
        }
    }
    free(path);
    return s;
}

/* ---- weights ----------------------------------------------------------------------------------------------------- */

/* Elements [begin, begin + n) of the arena of m, of parameter `spec`: what the parent has of it over fresh ones. */
static Status fill(const Parent *p, const ParamTable *theirs, const ParamSpec *spec, const Model *m, uint64_t seed, Device *host,
                   float *out, int64_t begin, int64_t n, Err *err) {
    const int row = param_find(theirs, spec->name);
    params_init_part(out, &m->table, &m->cfg, seed, begin, n);
    if (row < 0) return OK; /* an adapter */
    const ParamSpec *from = &theirs->spec[row];
    const int64_t at = begin - spec->offset, have = from->file_rows * from->cols - at;
    return have > 0 ? checkpoint_read_slice(p->dir, theirs, "model", host, out, from->offset + at, have < n ? have : n, err) : OK;
}

Status parent_weights(const Parent *p, Model *m, Optimizer *o, uint64_t seed, Err *err) {
    char why[256];
    ParamTable theirs;
    Device *host = device_open(DEVICE_CPU, 0, 1, why, sizeof why);
    if (!host) return err_set(err, ERR_DEVICE, "%s", why);
    Status s = param_table_build(&theirs, &p->cfg, 1, err);
    if (!s) {
        float *piece = xmalloc(PIECE * sizeof *piece);
        for (int i = 0; i < m->table.n && !s; i++) {
            const ParamSpec *spec = &m->table.spec[i];
            for (int64_t at = 0; at < spec->count && !s; at += PIECE) {
                const int64_t n = spec->count - at < PIECE ? spec->count - at : PIECE;
                s = fill(p, &theirs, spec, m, seed, host, piece, spec->offset + at, n, err);
                if (s) break;
                model_set_weights(m, piece, spec->offset + at, n);
                optimizer_set_master(o, piece, spec->offset + at, n);
            }
        }
        free(piece);
        param_table_free(&theirs);
    }
    device_close(host);
    if (!s && device_error(m->dev)) s = err_set(err, ERR_DEVICE, "%s: %s", device_name(m->dev), device_error(m->dev));
    return s;
}
