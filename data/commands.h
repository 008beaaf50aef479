/* commands.h - the commands of ehr-data, one cmd_*.c each: a flag table and the order of steps, nothing else. */
#ifndef EHR_DATA_COMMANDS_H
#define EHR_DATA_COMMANDS_H
#include "model/base.h"

Status cmd_import(int argc, char **argv, Err *err);
Status cmd_synth(int argc, char **argv, Err *err);
Status cmd_deidentify(int argc, char **argv, Err *err);
Status cmd_tokenize(int argc, char **argv, Err *err);
Status cmd_label(int argc, char **argv, Err *err);
Status cmd_validate(int argc, char **argv, Err *err);
Status cmd_inspect(int argc, char **argv, Err *err);
Status cmd_phi_scan(int argc, char **argv, Err *err);
Status cmd_attest(int argc, char **argv, Err *err);
Status cmd_whereis(int argc, char **argv, Err *err);

#endif
