/* cmd_audit.c - ehr-infer audit verify. */
#include "infer/audit.h"
#include "infer/commands.h"
#include "model/flags.h"
#include <string.h>

Status cmd_audit(int argc, char **argv, Err *err) {
    const char *head = NULL, *pos[2];
    Flag flags[] = {{"--head", FLAG_STRING, &head, 0, 0, NULL,
                     "hash that the last line must have: shows lines cut off the end", 0}};
    int n_pos, help;
    AuditReport r;
    Status s = flags_parse(flags, 1, argc, argv, pos, 2, &n_pos, &help, err);
    if (s) return s;
    if (help) {
        flags_help(
            flags, 1, "ehr-infer audit verify FILE [--head HASH]",
            "Whether the audit log of `ehr-infer serve` is as it was written: no line edited, removed or put in.",
            stdout);
        return OK;
    }
    if (n_pos != 2 || strcmp(pos[0], "verify"))
        return err_set(err, ERR_USAGE, "takes: ehr-infer audit verify FILE (--help)");
    if ((s = audit_verify(pos[1], head, &r, err))) return s;
    printf("%s: %lld line%s", pos[1], (long long)r.lines, r.lines == 1 ? "" : "s");
    if (r.lines) printf(" from %s to %s", r.from, r.to);
    printf(", the chain holds\nhead %s\n", r.head);
    return OK;
}
