/* cmd_phi_scan.c - ehr-data phi-scan: exit 1 when something looks like an identifier of a person. */
#include "data/commands.h"
#include "data/phi_scan.h"
#include "model/flags.h"
#include <stdlib.h>
#include <string.h>

static const char about[] =
    "Looks for identifiers of persons: SSN, phone, e-mail, URL, IP address, record and licence numbers, UUIDs, dates,\n"
    "places and names, in CSV, JSON, HDF5 (vocabularies, events, shards), text, zip and gz.  What it finds is told by\n"
    "place, never shown.  --names SOURCE also looks for the names of the people in a source.  Exit 1 when it finds\n"
    "something, which may be a code that looks like one, or could not search a folder or an HDF5 file whole; nothing found\n"
    "is no proof that nothing is there.";

Status cmd_phi_scan(int argc, char **argv, Err *err) {
    const char *pos[64], *json = NULL;
    StringList names = {0};
    int n_pos = 0, help = 0;
    Flag flags[] = {
        {"--names", FLAG_LIST, &names, 0, 0, NULL, "source whose people's names are looked for; may be repeated", 0},
        {"--json", FLAG_STRING, &json, 0, 0, NULL, "write the findings to this file as well", 0},
    };
    int n = sizeof flags / sizeof *flags;
    Status status = flags_parse(flags, n, argc, argv, pos, 64, &n_pos, &help, err);
    if (status) return status;
    if (help) {
        flags_help(flags, n, "ehr-data phi-scan PATH... [--names SOURCE]", about, stdout);
        return OK;
    }
    if (!n_pos) return err_set(err, ERR_USAGE, "a file or folder to search was expected: ehr-data phi-scan PATH");
    PhiPatterns *p;
    PhiReport r = {0};
    if ((status = phi_patterns_open(&p, err))) return status;
    for (int i = 0; i < names.n && !status; i++) status = phi_names_read(p, names.item[i], err);
    if (!status && names.n && !phi_names_count(p))
        status = err_set(err, ERR_USAGE, "--names %s: it has no columns or keys of people's names", names.item[0]);
    for (int i = 0; i < n_pos && !status; i++) status = phi_scan(&r, p, pos[i], stderr, err);
    if (!status) {
        phi_report_print(&r, stdout);
        fflush(stdout);
        char *text = json ? phi_report_json(&r) : NULL;
        if (text) status = file_write(json, text, strlen(text), err);
        free(text);
        if (!status && r.n_unsearched)
            status = err_set(err, ERR_FORMAT, "%d files or folders were not searched whole, see \"not searched\" (%lld possible "
                             "identifiers in the rest)", r.n_unsearched,
                             (long long)phi_report_count(&r, NULL, NULL, -1));
        else if (!status && r.n)
            status = err_set(err, ERR_FORMAT, "%lld possible identifiers in %d places",
                             (long long)phi_report_count(&r, NULL, NULL, -1), r.n);
    }
    phi_report_free(&r);
    phi_patterns_close(p);
    return status;
}
