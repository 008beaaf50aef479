/* cmd_export.c - ehr-infer export. */
#include "infer/commands.h"
#include "infer/export.h"
#include "infer/session.h"
#include <stdlib.h>
#include <string.h>

Status cmd_export(int argc, char **argv, Err *err) {
    const char *format = "safetensors", *dtype = "auto", *out = NULL, *name = "ehr.c model";
    int64_t max_file = 5000000000;
    int merge = 1;
    SessionFlags session = SESSION_FLAGS_PLAIN;
    Flag flags[] = {
        {"--format", FLAG_ENUM, &format, 0, 0, "safetensors|gguf", "a folder for transformers and vLLM, or a file for llama.cpp", 0},
        {"--dtype", FLAG_ENUM, &dtype, 0, 0, "auto|f32|bf16|f16|q8_0", "of matrices; auto: bf16; f16 and q8_0 for gguf alone", 0},
        {"--out", FLAG_STRING, &out, 0, 0, NULL, "folder (safetensors) or file (gguf) to write; must not exist", 0},
        {"--name", FLAG_STRING, &name, 0, 0, NULL, "gguf: what the model is called there", 0},
        {"--max-file", FLAG_SIZE, &max_file, 1, 1e15, NULL, "safetensors: weights are split above this size, with an index", 0},
        {"--merge-lora", FLAG_BOOL, &merge, 0, 0, NULL, "a LoRA checkpoint as a whole model; --merge-lora=no: the adapter, for peft and vLLM", 0},
        SESSION_BASE_FLAG(session),
    };
    const int n = sizeof flags / sizeof *flags;
    const char *pos[1];
    int n_pos, help;
    Status s = flags_parse(flags, n, argc, argv, pos, 1, &n_pos, &help, err);
    if (s) return s;
    if (help) {
        flags_help(flags, n, "ehr-infer export CHECKPOINT --out PATH [--format safetensors|gguf] [--dtype ...]",
                   "Weights for other engines, with vocabulary and provenance, without optimizer state.", stdout);
        return OK;
    }
    if (n_pos != 1 || !out) return err_set(err, ERR_USAGE, "needs a CHECKPOINT and --out PATH (--help)");
    char *checkpoint, *to;
    if ((s = session_find(pos[0], &checkpoint, err))) return s;
    to = path_copy(out); /* "model/" is written beside as model.tmp */
    ExportOptions o = {.checkpoint = checkpoint, .base = session.base, .keep_apart = !merge, .max_file_bytes = max_file, .name = name, .out = to, .progress = stderr};
    ExportSummary sum;
    o.format = !strcmp(format, "gguf") ? EXPORT_GGUF : EXPORT_SAFETENSORS;
    o.encoding = !strcmp(dtype, "auto") ? ENCODE_BF16 : (Encoding)encode_find(dtype);
    s = export_run(&o, &sum, err);
    if (!s && sum.merged) printf("the adapter is merged into its base\n");
    if (!s && !merge) {
        printf("%s: %d tensors of the adapter alone, %.1f MB\nnext: PeftModel.from_pretrained(base, '%s'), or vllm serve BASE --enable-lora "
               "--lora-modules ehr=%s\n", to, sum.tensors, 1e-6 * (double)sum.bytes, to, to);
    } else if (!s) {
        printf("%s: %d tensors, %.1f MB of weights in %s, %d file%s\n", to, sum.tensors, 1e-6 * (double)sum.bytes,
               encode_name(o.encoding), sum.files, sum.files == 1 ? "" : "s");
        if (sum.wider) printf("%d matrices whose rows are no multiple of %d are in f16\n", sum.wider, Q8_0_BLOCK);
        printf(o.format == EXPORT_GGUF ? "next: llama-completion -m %s -no-cnv -p 'RECORD_START ...'; infer/EXPORT.md says more\n"
                                       : "next: AutoModelForCausalLM.from_pretrained('%s'); infer/EXPORT.md says more\n", to);
    }
    free(to);
    free(checkpoint);
    return s;
}
