/* units.h - units of clinical values: one spelling each (UCUM's), and conversion to the unit that is usual for a code.
 *
 * LOINC codes say whether mass, substance or number is measured, so that a code has one usual unit.  Mass becomes
 * substance by the analyte's own molar mass and never by another's: potassium's is 39.1 g/mol, and 18 is glucose's. */
#ifndef EHR_DATA_UNITS_H
#define EHR_DATA_UNITS_H

/* UCUM's spelling of a unit as sources write it ("MG/DL", "mmHg", "K/uL", "mg/dL (See scan)"); the text itself when it
 * is not known.  Units are case-sensitive in UCUM: only spellings in the table are taken for each other. */
const char *unit_spelling(const char *text);

/* Number of a code in the table of analytes ("LOINC//2823-3"), -1: none. */
int unit_analyte(const char *code);
const char *unit_usual(int analyte); /* "mmol/L" */
/* Whether a living person may have it, in the usual unit; the limits are wide: beyond them is a typing error or another
 * unit. */
int unit_plausible(int analyte, double value);
void unit_range(int analyte, double *least, double *most);
/* *value from a unit (in UCUM's spelling) to the analyte's usual one: 1 = converted, 0 = it is in that unit already, -1
 * = there is no way. */
int unit_convert(int analyte, const char *unit, double *value);

#endif
