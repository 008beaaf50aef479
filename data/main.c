/* main.c - ehr-data: from records to a tokenised dataset. */
#include "data/commands.h"
#include "model/flags.h"
#include <signal.h>

static const Command commands[] = {
    {"import", "records (omop PATH: a folder or .zip of CDM 5.3/5.4 CSVs) -> events.h5", cmd_import},
    {"synth", "draw the oracle cohort: synthetic patients whose true risks and loss floor are known", cmd_synth},
    {"tokenize", "events.h5 -> a dataset: vocabulary, splits and HDF5 shards of token timelines", cmd_tokenize},
    {"label", "index times and outcomes of a task -> DATASET/labels/NAME.h5", cmd_label},
    {"validate", "check an events file or a dataset: formats, hashes, order, leaks", cmd_validate},
    {"inspect", "a readable timeline of one patient, or statistics of a dataset", cmd_inspect},
};

int main(int argc, char **argv) {
    signal(SIGXFSZ, SIG_IGN); /* a file beyond the limit is a full disk: write() says so */
    return command_main(commands, sizeof commands / sizeof *commands, "ehr-data",
                        "Turns hospital records into de-identified, tokenised patient timelines.", argc, argv);
}
