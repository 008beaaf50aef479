/* lora.c - see lora.h. */
#include "model/lora.h"
#include "model/flags.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name, *module;
    int matrix;
} PROJECTIONS[LORA_PROJECTIONS] = {
    [LORA_Q] = {"q", "self_attn.q_proj", W_QKV},         [LORA_K] = {"k", "self_attn.k_proj", W_QKV},
    [LORA_V] = {"v", "self_attn.v_proj", W_QKV},         [LORA_O] = {"o", "self_attn.o_proj", W_ATTN_OUT},
    [LORA_GATE] = {"gate", "mlp.gate_proj", W_GATE_UP},  [LORA_UP] = {"up", "mlp.up_proj", W_GATE_UP},
    [LORA_DOWN] = {"down", "mlp.down_proj", W_DOWN},
};

const char *lora_projection_name(LoraProjection p) {
    return PROJECTIONS[p].name;
}
const char *lora_projection_module(LoraProjection p) {
    return PROJECTIONS[p].module;
}
int lora_projection_matrix(LoraProjection p) {
    return PROJECTIONS[p].matrix;
}

/* "q", "q_proj" and "self_attn.q_proj" are the same; -1: none. */
static int projection_find(const char *name) {
    for (int p = 0; p < LORA_PROJECTIONS; p++) {
        const char *module = PROJECTIONS[p].module, *dot = strchr(module, '.');
        if (!strcmp(name, PROJECTIONS[p].name) || !strcmp(name, module) || !strcmp(name, dot + 1)) return p;
    }
    return -1;
}

static const char *projection_nearest(const char *name) {
    int best = 0;
    for (int p = 1; p < LORA_PROJECTIONS; p++)
        if (text_distance(PROJECTIONS[p].name, name) < text_distance(PROJECTIONS[best].name, name)) best = p;
    return PROJECTIONS[best].name;
}

Status lora_targets_parse(const char *text, const char *where, unsigned *targets, Err *err) {
    char *copy = xstrdup(text), *part[LORA_PROJECTIONS + 1];
    const int n = split_list(copy, part, LORA_PROJECTIONS + 1);
    Status s = OK;
    *targets = 0;
    for (int i = 0; i < n && !s; i++) {
        const int p = projection_find(part[i]);
        if (p < 0)
            s = err_set(err, ERR_USAGE, "%s: there is no projection '%s', the nearest is '%s'; there are q,k,v,o,gate,up,down",
                        where, part[i], projection_nearest(part[i]));
        else if (*targets >> p & 1)
            s = err_set(err, ERR_USAGE, "%s names '%s' twice", where, part[i]);
        else
            *targets |= 1u << p;
    }
    if (!s && !*targets) s = err_set(err, ERR_USAGE, "%s names no projection; there are q,k,v,o,gate,up,down", where);
    free(copy);
    return s;
}

void lora_projection_shape(const ModelConfig *cfg, LoraProjection p, int *rows, int *cols) {
    const int C = cfg->d_model, HD = cfg->n_heads * cfg->head_dim, GD = cfg->n_kv_heads * cfg->head_dim, F = cfg->d_ff;
    const int height[] = {[LORA_Q] = HD, [LORA_K] = GD, [LORA_V] = GD, [LORA_O] = C, [LORA_GATE] = F, [LORA_UP] = F, [LORA_DOWN] = C};
    *rows = height[p];
    *cols = p == LORA_O ? HD : p == LORA_DOWN ? F : C;
}

int lora_rank_max(const ModelConfig *cfg, unsigned targets) {
    int most = 1 << 16, rows, cols;
    for (int p = 0; p < LORA_PROJECTIONS; p++) {
        if (!(targets >> p & 1)) continue;
        lora_projection_shape(cfg, (LoraProjection)p, &rows, &cols);
        if (rows < most) most = rows;
        if (cols < most) most = cols;
    }
    return most;
}

Status lora_check(const ModelConfig *cfg, Err *err) {
    const LoraConfig *l = &cfg->lora;
    if (!l->rank) return OK;
    const int most = lora_rank_max(cfg, l->targets);
    if (!l->targets || l->targets > LORA_ALL) return err_set(err, ERR_USAGE, "adapters without a projection to put them on");
    if (l->rank < 1 || l->rank > most)
        return err_set(err, ERR_USAGE, "--lora-rank %d: between 1 and %d, the smallest side of the weights that get an adapter, are possible",
                       l->rank, most);
    if (!(l->alpha > 0) || !isfinite(l->alpha))
        return err_set(err, ERR_USAGE, "--lora-alpha %g: it must be above 0", l->alpha);
    return OK;
}

AdapterBlocks lora_blocks(const ModelConfig *cfg, int matrix, LoraProjection which[ADAPTER_BLOCKS_MAX]) {
    AdapterBlocks s = {.rank = cfg->lora.rank, .scale = cfg->lora.rank ? cfg->lora.alpha / cfg->lora.rank : 0};
    for (int p = 0; p < LORA_PROJECTIONS; p++) {
        int rows, cols;
        if (PROJECTIONS[p].matrix != matrix) continue;
        lora_projection_shape(cfg, (LoraProjection)p, &rows, &cols);
        s.cols = cols;
        if (s.rank && cfg->lora.targets >> p & 1) {
            s.row[s.n] = s.rows;
            s.height[s.n] = rows;
            which[s.n++] = (LoraProjection)p;
        }
        s.rows += rows;
    }
    return s;
}

LoraWidest lora_widest(const ModelConfig *cfg) {
    LoraProjection which[ADAPTER_BLOCKS_MAX];
    LoraWidest most = {0, 0, 0};
    for (int w = 0; w < W_PER_LAYER; w++) {
        const AdapterBlocks b = lora_blocks(cfg, w, which);
        if (!b.n) continue;
        if (b.n * b.rank > most.width) most.width = b.n * b.rank;
        if (b.rows > most.rows) most.rows = b.rows;
        if (b.cols > most.cols) most.cols = b.cols;
    }
    return most;
}
