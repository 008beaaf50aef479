/* units.c - see units.h. */
#include "data/units.h"
#include <stddef.h>
#include <string.h>

typedef enum {
    MASS_VOLUME,
    SUBSTANCE_VOLUME,
    CHARGE_VOLUME,
    NUMBER_VOLUME,
    MASS,
    LENGTH,
    TEMPERATURE,
    PRESSURE,
    OTHER
} Dimension;

/* factor and offset: base = factor * value + offset.  Bases: g/L, mol/L, eq/L, 1/L, g, m, Cel, Pa. */
static const struct {
    const char *name;
    Dimension dimension;
    double factor, offset;
    const char *spellings[8]; /* in any case; the name itself too */
} units[] = {
    {"g/L", MASS_VOLUME, 1, 0, {"g/l", "gram per liter", "gm/l"}},
    {"g/dL", MASS_VOLUME, 10, 0, {"g/dl", "gm/dl", "gram per deciliter", "g%"}},
    {"mg/dL", MASS_VOLUME, 1e-2, 0, {"mg/dl", "milligram per deciliter", "mg%", "mg/100ml"}},
    {"mg/L", MASS_VOLUME, 1e-3, 0, {"mg/l", "milligram per liter"}},
    {"mg/mL", MASS_VOLUME, 1, 0, {"mg/ml"}},
    {"ug/dL", MASS_VOLUME, 1e-5, 0, {"ug/dl", "mcg/dl", "\xC2\xB5g/dl", "\xCE\xBCg/dl", "microgram per deciliter"}},
    {"ug/L", MASS_VOLUME, 1e-6, 0, {"ug/l", "mcg/l", "\xC2\xB5g/l", "\xCE\xBCg/l"}},
    {"ug/mL", MASS_VOLUME, 1e-3, 0, {"ug/ml", "mcg/ml", "\xC2\xB5g/ml", "\xCE\xBCg/ml", "microgram per milliliter"}},
    {"ng/mL", MASS_VOLUME, 1e-6, 0, {"ng/ml", "nanogram per milliliter"}},
    {"ng/dL", MASS_VOLUME, 1e-8, 0, {"ng/dl", "nanogram per deciliter"}},
    {"pg/mL", MASS_VOLUME, 1e-9, 0, {"pg/ml", "picogram per milliliter"}},
    {"mol/L", SUBSTANCE_VOLUME, 1, 0, {"mol/l"}},
    {"mmol/L", SUBSTANCE_VOLUME, 1e-3, 0, {"mmol/l", "millimole per liter"}},
    {"umol/L", SUBSTANCE_VOLUME, 1e-6, 0, {"umol/l", "\xC2\xB5mol/l", "\xCE\xBCmol/l", "micromole per liter"}},
    {"nmol/L", SUBSTANCE_VOLUME, 1e-9, 0, {"nmol/l", "nanomole per liter"}},
    {"pmol/L", SUBSTANCE_VOLUME, 1e-12, 0, {"pmol/l", "picomole per liter"}},
    {"meq/L", CHARGE_VOLUME, 1e-3, 0, {"meq/l", "milliequivalent per liter"}},
    {"10*3/uL",
     NUMBER_VOLUME,
     1e9,
     0,
     {"k/ul", "10^3/ul", "x10e3/ul", "k/mcl", "thou/ul", "10*3/ul", "thousand per microliter", "th/mm3"}},
    {"10*9/L", NUMBER_VOLUME, 1e9, 0, {"10^9/l", "x10e9/l", "10*9/l", "billion per liter", "g/l x10^9"}},
    {"10*6/uL", NUMBER_VOLUME, 1e12, 0, {"m/ul", "10^6/ul", "x10e6/ul", "10*6/ul", "mil/ul", "million per microliter"}},
    {"10*12/L", NUMBER_VOLUME, 1e12, 0, {"10^12/l", "x10e12/l", "10*12/l", "trillion per liter"}},
    {"/uL", NUMBER_VOLUME, 1e6, 0, {"#/ul", "/mm3", "per microliter", "cells/ul", "{cells}/uL"}},
    {"kg", MASS, 1e3, 0, {"kgs", "kilogram"}},
    {"g", MASS, 1, 0, {"gm", "gram"}},
    {"[lb_av]", MASS, 453.59237, 0, {"lb", "lbs", "pound", "pound (us)"}},
    {"[oz_av]", MASS, 28.349523125, 0, {"oz", "ounce", "ounce (avoirdupois)"}},
    {"m", LENGTH, 1, 0, {"meter"}},
    {"cm", LENGTH, 1e-2, 0, {"centimeter"}},
    {"[in_i]", LENGTH, 0.0254, 0, {"in", "inch", "inches", "inch (us)", "[in_us]"}},
    {"[ft_i]", LENGTH, 0.3048, 0, {"ft", "foot", "feet"}},
    {"Cel",
     TEMPERATURE,
     1,
     0,
     {"degc",
      "\xC2\xB0"
      "c",
      "deg c", "degree celsius"}},
    {"[degF]",
     TEMPERATURE,
     5.0 / 9,
     -32 * 5.0 / 9,
     {"degf",
      "\xC2\xB0"
      "f",
      "deg f", "degree fahrenheit"}},
    {"mm[Hg]", PRESSURE, 133.322387415, 0, {"mmhg", "mm hg", "millimeter mercury column"}},
    {"kPa", PRESSURE, 1000, 0, {"kilopascal"}},
    {"%", OTHER, 1, 0, {"percent", "pct"}},
    {"/min", OTHER, 1, 0, {"bpm", "{beats}/min", "breaths/min", "{breaths}/min", "per minute", "insp/min"}},
    {"meq", OTHER, 1, 0, {"milliequivalent"}},
    {"[IU]/L", OTHER, 1, 0, {"iu/l", "international unit per liter"}},
    {"U/L", OTHER, 1, 0, {"u/l", "units/l", "unit per liter"}},
    {"m[IU]/L", OTHER, 1, 0, {"miu/l"}},
    {"fL", OTHER, 1, 0, {"fl", "femtoliter"}},
    {"pg", OTHER, 1, 0, {"picogram"}},
    {"kg/m2", OTHER, 1, 0, {"kg/m^2", "kg/m\xC2\xB2", "kilogram per square meter"}},
    {"mL/min/{1.73_m2}",
     OTHER,
     1,
     0,
     {"ml/min/1.73m2", "ml/min/1.73 m2", "ml/min/{1.73m2}", "ml/min/{1.73_m2}", "ml/min/1.73m^2",
      "milliliter per minute per 1.73 square meter"}},
};
enum { N_UNITS = sizeof units / sizeof *units };

/* LOINC codes, their usual unit, what turns mass into substance: molar mass in g/mol (0: never), charge of the ion; and
 * between which values, in that unit, people live. */
static const struct {
    const char *codes[4], *unit;
    double molar_mass;
    int charge;
    double least, most;
} analytes[] = {
    {{"2823-3", "6298-4"}, "mmol/L", 39.0983, 1, 0.8, 15}, /* potassium */
    {{"2951-2", "2947-0"}, "mmol/L", 22.98977, 1, 80, 220}, /* sodium */
    {{"2075-0", "2069-3"}, "mmol/L", 35.453, 1, 40, 180}, /* chloride */
    {{"1963-8", "1959-6"}, "mmol/L", 61.0168, 1, 0.5, 70}, /* bicarbonate */
    {{"2028-9", "20565-8"}, "mmol/L", 0, 1, 0.5, 70}, /* carbon dioxide, total */
    {{"17861-6", "49765-1"}, "mg/dL", 40.078, 2, 3, 25}, /* calcium */
    {{"1994-3", "1995-0"}, "mmol/L", 40.078, 2, 0.2, 5}, /* calcium, ionized */
    {{"19123-9"}, "mg/dL", 24.305, 2, 0.2, 20}, /* magnesium, mass */
    {{"2601-3"}, "mmol/L", 24.305, 2, 0.1, 8}, /* magnesium, substance */
    {{"2777-1"}, "mg/dL", 30.973762, 0, 0.1, 40}, /* phosphate, as phosphorus */
    {{"2345-7", "2339-0", "2341-6", "1558-6"}, "mg/dL", 180.156, 0, 10, 2500}, /* glucose, mass */
    {{"14749-6", "15074-8"}, "mmol/L", 180.156, 0, 0.3, 140}, /* glucose, substance */
    {{"2160-0", "38483-4"}, "mg/dL", 113.12, 0, 0.05, 60}, /* creatinine, mass */
    {{"14682-9"}, "umol/L", 113.12, 0, 4, 5300}, /* creatinine, substance */
    {{"3094-0", "6299-2"}, "mg/dL", 28.0134, 0, 0.5, 400}, /* urea nitrogen: two N a urea */
    {{"1975-2", "1968-7"}, "mg/dL", 584.66, 0, 0, 100}, /* bilirubin, total and direct, mass */
    {{"14631-6"}, "umol/L", 584.66, 0, 0, 1700}, /* bilirubin, substance */
    {{"2093-3", "2085-9", "2089-1"}, "mg/dL", 386.65, 0, 1, 2500}, /* cholesterol, HDL, LDL */
    {{"18262-6", "13457-7"}, "mg/dL", 386.65, 0, 0, 2500}, /* LDL, direct and calculated */
    {{"2571-8"}, "mg/dL", 885.4, 0, 5, 20000}, /* triglycerides, as triolein */
    {{"2524-7", "32693-4", "2518-9"}, "mmol/L", 90.078, 1, 0.05, 45}, /* lactate */
    {{"718-7", "20509-6", "30313-1"}, "g/dL", 0, 0, 0.5, 30}, /* hemoglobin */
    {{"1751-7", "2885-2", "786-4"}, "g/dL", 0, 0, 0.1, 60}, /* albumin, protein, MCHC */
    {{"777-3", "26515-7", "49497-1"}, "10*3/uL", 0, 0, 0, 6000}, /* platelets */
    {{"6690-2", "26464-8", "49498-9"}, "10*3/uL", 0, 0, 0, 1500}, /* leukocytes */
    {{"789-8", "26453-1"}, "10*6/uL", 0, 0, 0.1, 12}, /* erythrocytes */
    {{"29463-7", "3141-9"}, "kg", 0, 0, 0.2, 700}, /* body weight */
    {{"8302-2", "3137-7"}, "cm", 0, 0, 15, 280}, /* body height */
    {{"8310-5", "8331-1", "8329-5"}, "Cel", 0, 0, 10, 48}, /* body temperature */
    {{"8480-6", "8462-4", "8478-0"}, "mm[Hg]", 0, 0, 0, 400}, /* blood pressure */
    {{"2019-8", "2703-7", "11557-6"}, "mm[Hg]", 0, 0, 1, 800}, /* gases of blood */
};
enum { N_ANALYTES = sizeof analytes / sizeof *analytes };

static int unit_find(const char *text, size_t n, int any_case) {
    for (int i = 0; i < N_UNITS; i++) {
        if (strlen(units[i].name) == n && !strncmp(units[i].name, text, n)) return i;
        for (int k = 0; any_case && k < 8 && units[i].spellings[k]; k++)
            if (strlen(units[i].spellings[k]) == n && !strncasecmp(units[i].spellings[k], text, n)) return i;
    }
    return -1;
}

const char *unit_spelling(const char *text) {
    size_t n = strlen(text);
    int i = unit_find(text, n, 1);
    if (i >= 0) return units[i].name;
    const char *remark = strstr(text, " ("); /* "mg/dL (See scan or EMR data for detail)" */
    if (remark && remark > text && (i = unit_find(text, (size_t)(remark - text), 1)) >= 0) return units[i].name;
    return text;
}

int unit_analyte(const char *code) {
    if (strncmp(code, "LOINC//", 7)) return -1;
    for (int i = 0; i < N_ANALYTES; i++)
        for (int k = 0; k < 4 && analytes[i].codes[k]; k++)
            if (!strcmp(code + 7, analytes[i].codes[k])) return i;
    return -1;
}

const char *unit_usual(int analyte) { return analytes[analyte].unit; }

int unit_plausible(int analyte, double value) {
    return value >= analytes[analyte].least && value <= analytes[analyte].most;
}

void unit_range(int analyte, double *least, double *most) {
    *least = analytes[analyte].least;
    *most = analytes[analyte].most;
}

int unit_convert(int analyte, const char *unit, double *value) {
    if (!strcmp(unit, analytes[analyte].unit)) return 0;
    int from = unit_find(unit, strlen(unit), 0),
        to = unit_find(analytes[analyte].unit, strlen(analytes[analyte].unit), 0);
    if (from < 0) return -1;
    Dimension a = units[from].dimension, b = units[to].dimension;
    double x = units[from].factor * *value + units[from].offset, molar_mass = analytes[analyte].molar_mass;
    if (a != b && a == CHARGE_VOLUME && analytes[analyte].charge) { /* eq/L -> mol/L */
        x /= analytes[analyte].charge;
        a = SUBSTANCE_VOLUME;
    }
    if (a == OTHER) return -1;
    if (a == MASS_VOLUME && b == SUBSTANCE_VOLUME && molar_mass > 0) x /= molar_mass;
    else if (a == SUBSTANCE_VOLUME && b == MASS_VOLUME && molar_mass > 0) x *= molar_mass;
    else if (a != b) return -1;
    *value = (x - units[to].offset) / units[to].factor;
    return 1;
}
