/* cmd_info.c - ehr-infer info. */
#include "infer/commands.h"
#include "infer/gguf_read.h"
#include "infer/session.h"
#include "model/adapter.h"
#include "model/checkpoint.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* A line a member, and one for each of its own; what fills more than two lines stays in the file. */
static void print_members(json_t *object, int indent) {
    enum { LONGEST = 240 };
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value) {
        char *line = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
        if (json_is_object(value) && indent < 4 && json_object_size(value)) {
            printf("%*s%s\n", indent, "", key);
            print_members(value, indent + 2);
        } else if (strlen(line) > LONGEST)
            printf("%*s%-24s in trainer.json, %zu characters\n", indent, "", key, strlen(line));
        else
            printf("%*s%-24s %s\n", indent, "", key, line);
        free(line);
    }
}

static void print_trainer(const char *checkpoint) {
    char *text;
    size_t size;
    Err quiet;
    if (checkpoint_read_text(checkpoint, "trainer.json", &text, &size, &quiet)) {
        printf("training     not recorded: an export without trainer.json\n");
        return;
    }
    json_t *t = json_loadb(text, size, 0, NULL);
    free(text);
    print_members(t, 2);
    json_decref(t);
}

static void print_vocabulary(const char *checkpoint) {
    char *text;
    size_t size;
    Err err = {OK, ""};
    Vocabulary v;
    if (checkpoint_read_text(checkpoint, "vocabulary.json", &text, &size, &err)) {
        printf("vocabulary   %s\n", err.msg);
        return;
    }
    Status st = vocabulary_parse(&v, text, size, "vocabulary.json", &err);
    free(text);
    if (st) {
        printf("vocabulary   %s\n", err.msg);
        return;
    }
    int kind[TOKEN_KINDS] = {0};
    for (int i = 0; i < v.n; i++) kind[v.token[i].kind]++;
    char of_notes[32] = "";
    if (kind[TOKEN_TEXT]) snprintf(of_notes, sizeof of_notes, ", %d text", kind[TOKEN_TEXT]);
    printf("vocabulary   %d tokens: %d events, %d gaps, %d ages, %d static, %d values, %d unknown%s; sha256 %.16s\n", v.n,
           kind[TOKEN_EVENT], kind[TOKEN_GAP], kind[TOKEN_AGE], kind[TOKEN_STATIC], kind[TOKEN_VALUE], kind[TOKEN_UNKNOWN],
           of_notes, v.sha256);
    vocabulary_free(&v);
}

static void print_adapter(const char *checkpoint) {
    LoraConfig l;
    Err quiet;
    if (!adapter_there(checkpoint) || adapter_config_read(checkpoint, &l, &quiet)) return;
    printf("adapter      LoRA of rank %d, alpha %g, on", l.rank, l.alpha);
    for (int p = 0; p < LORA_PROJECTIONS; p++)
        if (l.targets >> p & 1) printf(" %s", lora_projection_name((LoraProjection)p));
    printf("%s; merged into %s\n", l.embeddings ? ", embeddings whole" : "", l.base);
}

Status cmd_info(int argc, char **argv, Err *err) {
    const char *pos[1];
    int n_pos, help;
    SessionFlags f = SESSION_FLAGS_PLAIN;
    Flag flags[] = {SESSION_BASE_FLAG(f)};
    Status st = flags_parse(flags, 1, argc, argv, pos, 1, &n_pos, &help, err);
    if (st) return st;
    if (help) {
        flags_help(flags, 1, "ehr-infer info CHECKPOINT|FILE.gguf",
                   "Shape, parameters, vocabulary and provenance of a checkpoint; keys and tensors of a GGUF file.", stdout);
        return OK;
    }
    if (n_pos != 1) return err_set(err, ERR_USAGE, "needs a CHECKPOINT or a GGUF file (--help)");
    const size_t length = strlen(pos[0]);
    if (length > 5 && !strcmp(pos[0] + length - 5, ".gguf")) return gguf_print(pos[0], stdout, err);
    Session s;
    st = session_open(&s, pos[0], NULL, &f, err);
    if (!st) st = checkpoint_verify(s.checkpoint, 1, &s.checked, NULL, err);
    if (!st) {
        const ModelConfig *c = &s.model.cfg;
        printf("checkpoint   %s\nweights      sha256 %.16s, fp32\n", s.checkpoint, s.model_sha256);
        print_adapter(s.checkpoint);
        printf("files        %s\n", s.checked ? "all as saved (SHA256SUMS)" : "not checked: no SHA256SUMS, a folder from elsewhere");
        printf("shape        Qwen3: %d layers, d_model %d, %d heads, %d kv heads, head_dim %d, d_ff %d, %s head, seq_len %d\n",
               c->n_layers, c->d_model, c->n_heads, c->n_kv_heads, c->head_dim, c->d_ff, c->tied ? "tied" : "untied",
               c->seq_len);
        printf("parameters   %lld, %.3g FLOP a token (forward and backward, mean context %d)\n",
               (long long)s.model.table.n_params, model_flops_per_token(c, c->seq_len / 2.0), c->seq_len / 2);
        print_vocabulary(s.checkpoint);
        printf("training\n");
        print_trainer(s.checkpoint);
    }
    session_close(&s);
    return st;
}
