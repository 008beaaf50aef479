/* main.c - ehr-infer: what a trained checkpoint can tell. */
#include "infer/commands.h"
#include "model/flags.h"
#include <signal.h>

static const Command commands[] = {
    {"generate", "simulated futures of one patient, beside the recorded history and what really happened", cmd_generate},
    {"risk", "probability of a labelled outcome for every patient and index time of a label file", cmd_risk},
    {"merge", "join the parts that ranks of `risk` wrote", cmd_merge},
    {"suggest", "diagnoses a patient may get for the first time, beside how common they are", cmd_suggest},
    {"diagnose", "encounters revealed test by test: what to ask for, what to name, at what cost", cmd_diagnose},
    {"explain", "what moved a forecast: the risk with and without each past event", cmd_explain},
    {"embed", "hidden states at index times, for probes", cmd_embed},
    {"score", "loss per token and per patient; the most surprising events", cmd_score},
    {"serve", "risks, futures and scores over HTTP", cmd_serve},
    {"key", "make an API key for `serve`", cmd_key},
    {"audit", "whether the audit log of `serve` is as it was written", cmd_audit},
    {"export", "weights for transformers, vLLM and llama.cpp", cmd_export},
    {"sign", "sign a manifest of a checkpoint's files: stage research", cmd_sign},
    {"promote", "sign that a checkpoint may go one stage further", cmd_promote},
    {"revoke", "take a checkpoint back from every stage", cmd_revoke},
    {"verify", "whether files and signatures of a checkpoint hold, and for which stage", cmd_verify},
    {"info", "what a checkpoint is: shape, training, data, provenance", cmd_info},
};

int main(int argc, char **argv) {
    signal(SIGXFSZ, SIG_IGN); /* a file beyond the limit is a full disk: write() says so */
    return command_main(commands, sizeof commands / sizeof *commands, "ehr-infer",
                        "Simulates patient futures, estimates risks and scores records.  Research use; not a medical device.",
                        argc, argv);
}
