/* commands.h - the commands of ehr-infer, one cmd_*.c each: a flag table and the order of steps, nothing else. */
#ifndef EHR_INFER_COMMANDS_H
#define EHR_INFER_COMMANDS_H
#include "model/base.h"

Status cmd_generate(int argc, char **argv, Err *err);
Status cmd_risk(int argc, char **argv, Err *err);
Status cmd_merge(int argc, char **argv, Err *err);
Status cmd_suggest(int argc, char **argv, Err *err);
Status cmd_diagnose(int argc, char **argv, Err *err);
Status cmd_explain(int argc, char **argv, Err *err);
Status cmd_embed(int argc, char **argv, Err *err);
Status cmd_score(int argc, char **argv, Err *err);
Status cmd_export(int argc, char **argv, Err *err);
Status cmd_sign(int argc, char **argv, Err *err);
Status cmd_verify(int argc, char **argv, Err *err);
Status cmd_promote(int argc, char **argv, Err *err);
Status cmd_revoke(int argc, char **argv, Err *err);
Status cmd_serve(int argc, char **argv, Err *err);
Status cmd_key(int argc, char **argv, Err *err);
Status cmd_audit(int argc, char **argv, Err *err);
Status cmd_info(int argc, char **argv, Err *err);

#endif
