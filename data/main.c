/* main.c - ehr-data: from records to a tokenised dataset. */
#include "data/commands.h"
#include "model/flags.h"
#include <signal.h>

static const Command commands[] = {
    {"import", "records of OMOP, MIMIC-IV, Synthea, FHIR or MEDS -> events.h5", cmd_import},
    {"synth", "draw the oracle cohort: synthetic patients whose true risks and loss floor are known", cmd_synth},
    {"deidentify", "events.h5 -> the events file of a release: random keys, relative time, no rare codes", cmd_deidentify},
    {"tokenize", "events.h5 -> a dataset: vocabulary, splits and HDF5 shards of token timelines", cmd_tokenize},
    {"label", "index times and outcomes of a task -> DATASET/labels/NAME.h5", cmd_label},
    {"validate", "check an events file or a dataset: formats, hashes, order, leaks", cmd_validate},
    {"attest", "a person's signed statement about a release; its keys and its check", cmd_attest},
    {"whereis", "which datasets and checkpoints contain a patient", cmd_whereis},
    {"phi-scan", "look for identifiers of persons in any file", cmd_phi_scan},
    {"inspect", "a readable timeline of one patient, or statistics of a dataset", cmd_inspect},
};

int main(int argc, char **argv) {
    signal(SIGXFSZ, SIG_IGN); /* a file beyond the limit is a full disk: write() says so */
    return command_main(commands, sizeof commands / sizeof *commands, "ehr-data",
                        "Turns hospital records into de-identified, tokenised patient timelines.", argc, argv);
}
