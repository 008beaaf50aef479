/* oracle_tables.h - the numbers of the oracle's law, written by hand: an invented world with the shape of hospital
 * care. Included by oracle.c alone.
 *
 * Every cause list is sparse and ends with a weight of 0.  Frozen: changing a number changes every oracle cohort, its
 * floor and its true risks.  The realism they were chosen for is measured by `ehr-data synth --describe` and by
 * tests/test_oracle.c. */
#ifndef EHR_DATA_ORACLE_TABLES_H
#define EHR_DATA_ORACLE_TABLES_H
#include "data/oracle.h"

typedef struct {
    int at;
    double weight;
} Cause;
enum { CAUSES = 4, REVEALS = 6 };

/* Chronic conditions, labs and drugs by name, in the order of their tables and lists. */
enum {
    HTN,
    LIPID,
    DM,
    CAD,
    HF,
    AFIB,
    CKD,
    COPD,
    ASTHMA,
    DEPR,
    ANXIETY,
    HYPOTH,
    ARTHRO,
    OSTEO,
    GERD,
    OSA,
    OBESE,
    ANEMIA,
    PAD,
    STROKE,
    CIRRH,
    CANCER,
    DEMENT,
    ALCOHOL
};
enum { CREAT, GLUC, HGB, WBC, LACT, SPO2, POTAS, BNP, A1C, LDL, SBP, TSH };
enum { LISIN, AMLOD, STATIN, METF, INSUL, ASPIR, METOP, FUROS, APIX, TIOTR, ALBUT, SERTR, BUSPI, LEVOT, OMEPR, IRON };

typedef struct {
    const char *code, *name, *unit;
    double edge[9];
    int bad;                /* +1: high is bad, -1: low is bad */
    int severe;             /* counts towards sev */
    double base;            /* logit of being measured */
    Cause asked[CAUSES];    /* chronic: measured more often */
    Cause worse[CAUSES];    /* chronic: B, level moves in the bad direction */
    Cause better[CAUSES];   /* drugs: D, level moves back */
    Cause reveals[REVEALS]; /* chronic: E, more likely found while the last level is bad */
} LabRow;

/* clang-format off */
static const LabRow LABS[ORACLE_LABS] = {
    {"LOINC//2160-0", "Creatinine", "mg/dL", {0.5, 0.6, 0.7, 0.8, 0.9, 1.1, 1.3, 1.8, 3.0}, 1, 1, -0.3,
     {{CKD, 1.2}, {DM, 0.4}, {HF, 0.4}}, {{CKD, 1.0}, {HF, 0.2}}, {{0, 0}},
     {{CKD, 2.6}}},
    {"LOINC//2345-7", "Glucose", "mg/dL", {75, 83, 90, 97, 105, 117, 135, 165, 220}, 1, 0, -1.0,
     {{DM, 1.0}}, {{DM, 1.3}, {OBESE, 0.3}}, {{METF, 0.4}, {INSUL, 0.6}},
     {{DM, 1.9}}},
    {"LOINC//718-7", "Hemoglobin", "g/dL", {8.0, 9.3, 10.4, 11.3, 12.1, 12.9, 13.7, 14.5, 15.5}, -1, 0, -1.2,
     {{ANEMIA, 1.2}, {CANCER, 0.9}, {CKD, 0.5}}, {{ANEMIA, 1.2}, {CANCER, 0.7}, {CKD, 0.5}}, {{IRON, 0.7}},
     {{ANEMIA, 2.4}, {CANCER, 0.7}}},
    {"LOINC//6690-2", "Leukocytes", "10*3/uL", {3.6, 4.5, 5.3, 6.1, 7.0, 8.1, 9.6, 11.8, 15.5}, 1, 0, -1.6,
     {{CANCER, 0.9}, {COPD, 0.4}}, {{COPD, 0.3}}, {{0, 0}},
     {{CANCER, 0.5}}},
    {"LOINC//2524-7", "Lactate", "mmol/L", {0.6, 0.8, 1.0, 1.2, 1.5, 1.9, 2.4, 3.2, 5.0}, 1, 1, -1.8,
     {{CIRRH, 0.9}, {CANCER, 0.5}}, {{CIRRH, 0.7}, {CANCER, 0.3}, {HF, 0.2}}, {{0, 0}},
     {{CIRRH, 0.9}}},
    {"LOINC//2708-6", "Oxygen saturation", "%", {86, 89, 91, 93, 94.5, 95.5, 96.5, 97.5, 98.5}, -1, 1, 0.1,
     {{COPD, 1.0}, {HF, 0.5}, {ASTHMA, 0.5}}, {{COPD, 0.8}, {HF, 0.4}, {OSA, 0.3}}, {{TIOTR, 0.4}, {ALBUT, 0.3}},
     {{HF, 0.8}, {COPD, 2.3}, {ASTHMA, 0.6}, {OSA, 0.7}, {CANCER, 0.5}}},
    {"LOINC//2823-3", "Potassium", "mmol/L", {3.1, 3.4, 3.7, 3.9, 4.1, 4.3, 4.6, 5.0, 5.6}, 1, 0, -1.5,
     {{CKD, 0.8}, {HF, 0.4}}, {{CKD, 0.7}}, {{FUROS, 0.5}},
     {{CKD, 0.6}}},
    {"LOINC//33762-6", "NT-proBNP", "pg/mL", {35, 60, 95, 150, 240, 420, 900, 2200, 6000}, 1, 0, -3.0,
     {{HF, 2.2}, {AFIB, 0.6}, {CAD, 0.4}}, {{HF, 1.6}, {AFIB, 0.5}, {CKD, 0.4}}, {{FUROS, 0.5}},
     {{HF, 2.6}, {AFIB, 0.9}}},
    {"LOINC//4548-4", "Hemoglobin A1c", "%", {4.8, 5.1, 5.3, 5.5, 5.7, 6.0, 6.5, 7.4, 9.0}, 1, 0, -2.0,
     {{DM, 2.2}, {OBESE, 0.5}}, {{DM, 1.4}, {OBESE, 0.4}}, {{METF, 0.5}, {INSUL, 0.5}},
     {{DM, 2.6}, {OBESE, 0.6}}},
    {"LOINC//13457-7", "LDL cholesterol", "mg/dL", {60, 75, 88, 100, 112, 125, 140, 160, 190}, 1, 0, -2.0,
     {{LIPID, 1.3}, {CAD, 0.5}}, {{LIPID, 1.2}, {OBESE, 0.3}}, {{STATIN, 1.2}},
     {{LIPID, 2.2}, {CAD, 0.5}, {OBESE, 0.3}, {PAD, 0.4}}},
    {"LOINC//8480-6", "Systolic blood pressure", "mmHg", {98, 106, 113, 119, 125, 131, 139, 149, 165}, 1, 0, 0.9,
     {{HTN, 0.6}}, {{HTN, 1.1}, {CKD, 0.4}, {OBESE, 0.3}}, {{LISIN, 0.6}, {AMLOD, 0.5}},
     {{HTN, 2.2}, {STROKE, 0.9}}},
    {"LOINC//3016-3", "Thyrotropin", "mIU/L", {0.4, 0.8, 1.2, 1.6, 2.1, 2.7, 3.6, 5.0, 9.0}, 1, 0, -2.6,
     {{HYPOTH, 1.9}, {DEPR, 0.4}}, {{HYPOTH, 1.3}}, {{LEVOT, 0.9}},
     {{DEPR, 0.4}, {ANXIETY, 0.3}, {HYPOTH, 3.0}}},
};
/* Shift of levels in the bad direction; the ICU's adds to the ward's. */
static const double LAB_WARD = 1.20, LAB_ICU = 0.90;

typedef struct {
    const char *code, *name;
    double      base, age; /* logit, and its slope in x */
    double      sex[ORACLE_SEXES], race[ORACLE_RACES];
    Cause       from[CAUSES]; /* chronic */
    double      out, in, death; /* weights in the log rates at home */
} ChronicRow;

/* sex: F, M; race: WHITE, BLACK, ASIAN, OTHER. */
static const ChronicRow CHRONIC[ORACLE_CHRONIC] = {
    {"ICD10CM//I10", "Essential hypertension", -3.5, 0.40, {0, 0.1}, {0, 0.75, -0.1, 0.1},
     {{OBESE, 0.6}, {DM, 0.5}, {CKD, 0.6}}, 0.08, 0.00, 0.00},
    {"ICD10CM//E78.5", "Hyperlipidemia", -3.6, 0.32, {0, 0.2}, {0, -0.1, 0.1, 0.1},
     {{DM, 0.6}, {HTN, 0.4}, {OBESE, 0.4}}, 0.05, 0.00, 0.00},
    {"ICD10CM//E11.9", "Type 2 diabetes mellitus", -6.1, 0.22, {0, 0.15}, {0, 0.7, 0.6, 0.45},
     {{OBESE, 0.8}, {HTN, 0.3}}, 0.16, 0.22, 0.12},
    {"ICD10CM//I25.10", "Coronary artery disease", -5.6, 0.50, {0, 0.7}, {0, 0.0, 0.0, 0.0},
     {{DM, 0.5}, {LIPID, 0.6}, {HTN, 0.5}}, 0.10, 0.30, 0.15},
    {"ICD10CM//I50.9", "Heart failure", -6.2, 0.50, {0, 0.2}, {0, 0.55, -0.2, 0.0},
     {{CAD, 1.0}, {AFIB, 0.7}, {HTN, 0.5}}, 0.20, 0.65, 0.60},
    {"ICD10CM//I48.91", "Atrial fibrillation", -6.0, 0.65, {0, 0.3}, {0, -0.6, -0.4, -0.2},
     {{HF, 0.9}, {HTN, 0.4}, {OSA, 0.4}}, 0.12, 0.30, 0.20},
    {"ICD10CM//N18.30", "Chronic kidney disease, stage 3", -6.1, 0.45, {0, 0}, {0, 0.7, 0.1, 0.2},
     {{DM, 0.7}, {HTN, 0.6}, {HF, 0.4}}, 0.15, 0.35, 0.35},
    {"ICD10CM//J44.9", "Chronic obstructive pulmonary disease", -5.7, 0.42, {0, 0.1}, {0, -0.35, -0.9, -0.3},
     {{ASTHMA, 0.7}, {CAD, 0.3}}, 0.14, 0.45, 0.40},
    {"ICD10CM//J45.909", "Asthma", -4.5, -0.12, {0.35, 0}, {0, 0.6, -0.4, 0.2},
     {{OBESE, 0.4}, {GERD, 0.3}}, 0.10, 0.12, 0.00},
    {"ICD10CM//F32.A", "Depression", -4.0, -0.08, {0.6, 0}, {0, -0.3, -0.7, 0.0},
     {{ANXIETY, 1.0}, {ALCOHOL, 0.6}, {CANCER, 0.4}}, 0.15, 0.12, 0.05},
    {"ICD10CM//F41.9", "Anxiety disorder", -4.0, -0.15, {0.6, 0}, {0, -0.4, -0.6, 0.0},
     {{DEPR, 1.0}, {ASTHMA, 0.2}}, 0.18, 0.05, 0.00},
    {"ICD10CM//E03.9", "Hypothyroidism", -5.0, 0.20, {1.2, 0}, {0, -0.7, 0.1, 0.0},
     {{0, 0}}, 0.05, 0.00, 0.00},
    {"ICD10CM//M19.90", "Osteoarthritis", -4.6, 0.42, {0.35, 0}, {0, 0.0, -0.4, 0.0},
     {{OBESE, 0.7}, {OSTEO, 0.2}}, 0.12, 0.05, 0.00},
    {"ICD10CM//M81.0", "Osteoporosis", -5.8, 0.55, {1.4, 0}, {0, -0.8, 0.4, 0.0},
     {{ARTHRO, 0.2}, {COPD, 0.3}}, 0.05, 0.10, 0.05},
    {"ICD10CM//K21.9", "Gastro-esophageal reflux disease", -4.2, 0.12, {0.1, 0}, {0, 0.0, -0.3, 0.1},
     {{OBESE, 0.5}, {ANXIETY, 0.3}}, 0.08, 0.00, 0.00},
    {"ICD10CM//G47.33", "Obstructive sleep apnea", -5.0, 0.10, {0, 0.8}, {0, 0.2, -0.1, 0.1},
     {{OBESE, 1.5}, {HTN, 0.3}}, 0.06, 0.05, 0.00},
    {"ICD10CM//E66.9", "Obesity", -3.9, -0.02, {0.2, 0}, {0, 0.5, -1.1, 0.2},
     {{DEPR, 0.3}, {HYPOTH, 0.3}}, 0.06, 0.05, 0.00},
    {"ICD10CM//D50.9", "Iron deficiency anemia", -5.4, 0.08, {0.9, 0}, {0, 0.6, 0.2, 0.2},
     {{CKD, 0.6}, {CANCER, 0.7}, {CIRRH, 0.4}}, 0.10, 0.20, 0.15},
    {"ICD10CM//I73.9", "Peripheral vascular disease", -6.0, 0.45, {0, 0.3}, {0, 0.3, -0.4, 0.0},
     {{DM, 0.8}, {CAD, 0.7}, {LIPID, 0.3}}, 0.08, 0.20, 0.15},
    {"ICD10CM//I67.9", "Cerebrovascular disease", -6.2, 0.50, {0, 0.1}, {0, 0.4, 0.1, 0.0},
     {{HTN, 0.6}, {AFIB, 0.8}, {DM, 0.3}}, 0.10, 0.30, 0.25},
    {"ICD10CM//K74.60", "Cirrhosis of liver", -7.0, 0.12, {0, 0.4}, {0, -0.1, 0.2, 0.4},
     {{ALCOHOL, 2.0}, {DM, 0.4}, {OBESE, 0.3}}, 0.15, 0.50, 0.75},
    {"ICD10CM//C34.90", "Malignant neoplasm of lung", -6.9, 0.50, {0, 0.1}, {0, 0.2, -0.1, -0.2},
     {{COPD, 1.0}}, 0.45, 0.70, 1.60},
    {"ICD10CM//G30.9", "Alzheimer disease", -7.4, 0.95, {0.3, 0}, {0, 0.3, -0.1, 0.2},
     {{STROKE, 0.7}, {DM, 0.2}}, 0.05, 0.35, 0.75},
    {"ICD10CM//F10.20", "Alcohol dependence", -5.4, -0.15, {0, 0.9}, {0, -0.2, -0.9, 0.1},
     {{DEPR, 0.8}, {ANXIETY, 0.5}}, 0.05, 0.35, 0.30},
};
static const double CHRONIC_FIRST = 1.6, CHRONIC_LATER = -0.4, CHRONIC_KNOWN = 0.5; /* rule 9 */

typedef struct {
    const char *code, *name;
    int         parent; /* chronic, -1 = none */
    double      base;
    Cause       from[CAUSES]; /* G: chronic */
} AcuteRow;
static const AcuteRow ACUTE[ORACLE_ACUTE] = {
    {"ICD10CM//I50.23", "Acute on chronic systolic heart failure", HF, -1.6, {{HF, 2.6}, {CAD, 0.4}, {CKD, 0.3}}},
    {"ICD10CM//I21.4", "Non-ST elevation myocardial infarction", CAD, -0.9, {{CAD, 1.6}, {DM, 0.3}, {LIPID, 0.3}}},
    {"ICD10CM//J44.1", "COPD with acute exacerbation", COPD, -1.8, {{COPD, 2.7}}},
    {"ICD10CM//J18.9", "Pneumonia", -1, 0.3, {{COPD, 0.6}, {DEMENT, 0.7}, {CANCER, 0.5}}},
    {"ICD10CM//A41.9", "Sepsis", -1, -0.1, {{CANCER, 0.8}, {CIRRH, 0.7}, {DM, 0.4}}},
    {"ICD10CM//N17.9", "Acute kidney failure", -1, -0.5, {{CKD, 1.5}, {HF, 0.4}, {CIRRH, 0.5}}},
    {"ICD10CM//I63.9", "Cerebral infarction", STROKE, -1.1, {{AFIB, 1.2}, {STROKE, 1.2}, {HTN, 0.4}}},
    {"ICD10CM//E11.10", "Type 2 diabetes with ketoacidosis", DM, -2.6, {{DM, 2.6}}},
    {"ICD10CM//K92.2", "Gastrointestinal hemorrhage", -1, -0.2, {{CIRRH, 1.3}, {GERD, 0.4}, {ANEMIA, 0.6}}},
    {"ICD10CM//S72.001A", "Fracture of neck of femur", OSTEO, -1.4, {{OSTEO, 1.9}, {DEMENT, 0.9}}},
    {"ICD10CM//F10.231", "Alcohol withdrawal delirium", ALCOHOL, -2.8, {{ALCOHOL, 3.2}}},
    {"ICD10CM//L03.90", "Cellulitis", -1, 0.0, {{DM, 0.6}, {OBESE, 0.5}, {PAD, 0.6}}},
};

typedef struct {
    const char *code, *name;
    int         treats; /* chronic */
} DrugRow;
static const DrugRow DRUGS[ORACLE_DRUGS] = {
    {"ATC//C09AA03", "Lisinopril", HTN},        {"ATC//C08CA01", "Amlodipine", HTN},
    {"ATC//C10AA05", "Atorvastatin", LIPID},    {"ATC//A10BA02", "Metformin", DM},
    {"ATC//A10AE04", "Insulin glargine", DM},   {"ATC//B01AC06", "Aspirin", CAD},
    {"ATC//C07AB02", "Metoprolol", CAD},        {"ATC//C03CA01", "Furosemide", HF},
    {"ATC//B01AF02", "Apixaban", AFIB},         {"ATC//R03BB04", "Tiotropium", COPD},
    {"ATC//R03AC02", "Salbutamol", ASTHMA},     {"ATC//N06AB06", "Sertraline", DEPR},
    {"ATC//N05BE01", "Buspirone", ANXIETY},     {"ATC//H03AA01", "Levothyroxine", HYPOTH},
    {"ATC//A02BC01", "Omeprazole", GERD},       {"ATC//B03AA07", "Ferrous sulfate", ANEMIA},
};
static const double DRUG_GIVEN = 0.55;

typedef struct {
    const char *code, *name;
    double      base; /* f_p */
} ProcedureRow;
static const ProcedureRow PROCEDURES[ORACLE_PROCEDURES] = {
    {"CPT4//71045", "Chest X-ray", -1.1},
    {"CPT4//93306", "Echocardiography", -2.3},
    {"CPT4//70450", "CT of head without contrast", -2.6},
    {"ICD10PCS//30233N1", "Transfusion of red blood cells", -3.2},
    {"ICD10PCS//02HV33Z", "Central venous catheter", -3.3},
    {"ICD10PCS//5A1935Z", "Mechanical ventilation, under 24 hours", -4.2},
};
static const double PROCEDURE_ICU = 1.2;

typedef struct {
    const char *code, *name;
    double      base;
    Cause       from[CAUSES]; /* W: chronic */
} ComplaintRow;
static const ComplaintRow COMPLAINTS[ORACLE_COMPLAINTS] = {
    {"COMPLAINT//CHECKUP", "Routine check-up", 1.3, {{CANCER, -0.5}, {DEMENT, -0.4}}},
    {"COMPLAINT//CHEST_PAIN", "Chest pain", -0.8, {{CAD, 1.5}, {GERD, 0.6}, {ANXIETY, 0.5}}},
    {"COMPLAINT//DYSPNEA", "Shortness of breath", -0.9, {{HF, 1.4}, {COPD, 1.5}, {ASTHMA, 1.2}}},
    {"COMPLAINT//FATIGUE", "Fatigue", -0.3, {{ANEMIA, 0.9}, {HYPOTH, 0.7}, {CANCER, 1.0}, {DEPR, 0.5}}},
    {"COMPLAINT//JOINT_PAIN", "Joint pain", -0.4, {{ARTHRO, 1.7}, {OBESE, 0.3}}},
    {"COMPLAINT//HEADACHE", "Headache", -0.4, {{HTN, 0.4}, {ANXIETY, 0.4}}},
    {"COMPLAINT//ABDOMINAL_PAIN", "Abdominal pain", -0.4, {{GERD, 1.0}, {CIRRH, 1.1}, {ALCOHOL, 0.5}}},
    {"COMPLAINT//COUGH", "Cough", -0.1, {{COPD, 0.9}, {ASTHMA, 0.8}, {CANCER, 0.5}}},
    {"COMPLAINT//LOW_MOOD", "Low mood", -1.2, {{DEPR, 2.0}, {ANXIETY, 1.0}, {ALCOHOL, 0.6}}},
    {"COMPLAINT//DIZZINESS", "Dizziness", -0.7, {{AFIB, 0.7}, {STROKE, 0.8}, {ANEMIA, 0.4}}},
    {"COMPLAINT//LEG_SWELLING", "Leg swelling", -1.4, {{HF, 1.5}, {CKD, 0.7}, {PAD, 0.8}}},
    {"COMPLAINT//FORGETFULNESS", "Forgetfulness", -2.2, {{DEMENT, 2.8}, {STROKE, 0.9}}},
};

/* Rates at home, per day: base exp(clamp(linear, -3, 5)); the weights of conditions are columns of CHRONIC. */
enum { RATE_OUT, RATE_IN, RATE_DEATH, RATES };
typedef struct {
    double base, x, sex[ORACLE_SEXES], race[ORACLE_RACES];
    double treated;    /* factor added to a condition's weight once a drug that treats it was seen */
    double sev, admissions, last_inpatient;
} RateRow;
static const RateRow RATE[RATES] = {
    {1.0 / 75, 0.06, {0.10, 0}, {0, -0.10, -0.05, -0.10}, 0.0, 0.10, 0.05, 0.90},
    {1.0 / 5700, 0.20, {0, 0.05}, {0, 0.15, -0.20, 0.0}, -0.35, 0.50, 0.30, 2.15},
    {1.0 / 82000, 0.72, {0, 0.20}, {0, 0.10, -0.20, 0.0}, -0.30, 0.70, 0.25, 0.55},
};

static const double SEX_SHARE[ORACLE_SEXES] = {0.53, 0.47};
static const char *const SEX_CODE[ORACLE_SEXES] = {"SEX//F", "SEX//M"};
static const double RACE_SHARE[ORACLE_RACES] = {0.60, 0.18, 0.14, 0.08};
static const char *const RACE_CODE[ORACLE_RACES] = {"RACE//WHITE", "RACE//BLACK", "RACE//ASIAN", "RACE//OTHER"};
/* Share of the age bins 20-24 .. 85-89. */
static const double AGE_SHARE[ORACLE_AGES] = {0.05, 0.06, 0.06, 0.07, 0.07, 0.08, 0.09,
                                              0.10, 0.10, 0.10, 0.09, 0.06, 0.04, 0.03};

/* clang-format on */
#endif
