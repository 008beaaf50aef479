/* make_mimic.h - MIMIC-IV's tables with two invented patients, one trap a row. */
#ifndef EHR_TESTS_MAKE_MIMIC_H
#define EHR_TESTS_MAKE_MIMIC_H

/* An invented patient who dies in the second stay, and one who lives. */
static const struct {
    const char *name, *text;
} fixture[] = {
    {"patients.csv", "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod\n"
                     "1,F,91,2150,2014 - 2016,2151-03-02\n"
                     "2,M,40,2130,2014 - 2016,\n"},
    {"admissions.csv", "subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,discharge_location,insurance,"
                       "marital_status,race,hospital_expire_flag\n"
                       "1,10,2150-01-05 08:00:00,2150-01-09 00:00:00,,URGENT,HOME,Medicare,WIDOWED,WHITE - RUSSIAN,0\n"
                       "1,11,2151-03-01 10:00:00,2151-03-02 00:00:00,2151-03-02 14:30:00,EW EMER.,DIED,,,UNKNOWN,1\n"
                       "2,20,2130-05-01 00:00:00,2130-05-03 12:00:00,,ELECTIVE,HOME,,SINGLE,BLACK/AFRICAN AMERICAN,0\n"},
    {"transfers.csv", "subject_id,hadm_id,transfer_id,eventtype,careunit,intime,outtime\n"
                      "1,,501,ED,Emergency Department,2150-06-01 01:00:00,2150-06-01 05:00:00\n"
                      "1,11,502,admit,Medicine,2151-03-01 10:00:00,2151-03-01 20:00:00\n"
                      "1,11,503,discharge,,2151-03-02 14:30:00,\n"},
    {"icustays.csv", "subject_id,hadm_id,stay_id,first_careunit,last_careunit,intime,outtime,los\n"
                     "1,11,7,MICU,MICU,2151-03-01 20:00:00,2151-03-02 14:30:00,0.8\n"},
    {"diagnoses_icd.csv", "subject_id,hadm_id,seq_num,icd_code,icd_version\n"
                          "1,10,1,4280   ,9\n1,11,1,I5023,10\n1,99,1,I10,10\n2,20,1,7,9\n2,20,2,E9342,9\n"},
    {"procedures_icd.csv", "subject_id,hadm_id,seq_num,chartdate,icd_code,icd_version\n"
                           "1,10,1,2150-01-06,5491,9\n2,20,1,5/3/2130,02HV33Z,10\n"},
    {"labevents.csv", "labevent_id,subject_id,hadm_id,specimen_id,itemid,charttime,storetime,value,valuenum,valueuom\n"
                      "1,1,10,1,50912,2150-01-05 09:00:00,2150-01-05 11:00:00,1.2,1.2,mg/dL\n"
                      "2,1,10,2,51003,2150-01-05 09:00:00,2150-01-05 12:00:00,<0.01,0.01,ng/mL\n"
                      "3,1,,3,50971,2150-01-20 00:00:00,2150-01-19 23:00:00,4.0,4,mEq/L\n"
                      "4,1,10,4,51464,2150-01-05 09:00:00,2150-01-05 13:00:00,NEG,,\n"
                      "5,1,10,5,50800,2150-01-05 09:00:00,,call Dr. Smith,,\n"
                      "6,1,10,6,50813,2150-01-05 09:30:00,2150-01-05 13:00:00,GREATER THAN 15,,mmol/L\n"
                      "7,1,10,1,50912,2150-01-05 09:00:00,2150-01-05 11:00:00,1.2,1.2,mg/dL\n"},
    {"microbiologyevents.csv",
     "microevent_id,subject_id,hadm_id,chartdate,charttime,storedate,storetime,test_itemid,test_name,org_itemid,"
     "org_name,ab_itemid,ab_name,dilution_comparison,dilution_value,interpretation\n"
     "1,2,20,2130-05-01 00:00:00,2130-05-01 10:00:00,2130-05-03 00:00:00,2130-05-03 09:00:00,90201,URINE CULTURE,,,,,,,\n"
     "2,2,20,2130-05-01 00:00:00,,2130-05-03 00:00:00,2130-05-03 09:00:00,90201,URINE CULTURE,80002,ESCHERICHIA COLI,"
     "90004,AMPICILLIN,=>        ,32,R\n"},
    {"omr.csv", "subject_id,chartdate,seq_num,result_name,result_value\n"
                "2,2130-06-01,1,Blood Pressure,120/80\n2,2130-06-01,1,Weight (Lbs),180\n"},
    {"prescriptions.csv", "subject_id,hadm_id,pharmacy_id,starttime,stoptime,drug_type,drug,dose_val_rx,dose_unit_rx\n"
                          "2,20,900,2130-05-01 12:00:00,,MAIN,Heparin,5000,UNIT\n"
                          "2,20,901,2130-05-01 12:00:00,,MAIN,Senna,1-2,TAB\n"},
    {"pharmacy.csv", "subject_id,hadm_id,pharmacy_id,starttime,stoptime,medication,entertime\n"
                     "2,20,900,2130-05-01 12:00:00,,Heparin,2130-05-01 12:40:00\n"
                     "2,20,902,2130-05-02 12:00:00,,TPN,2130-05-02 10:00:00\n2,20,903,2130-05-02 12:00:00,,,\n"},
    {"emar.csv", "subject_id,hadm_id,emar_id,emar_seq,charttime,medication,event_txt,scheduletime,storetime\n"
                 "2,20,a-1,1,2130-05-01 12:00:00,Heparin,Administered,,2130-05-01 12:01:00\n"
                 "2,20,a-2,2,2130-05-02 08:00:00,Heparin,Administered,,2130-05-02 08:05:00\n"
                 "2,20,a-3,3,2130-05-02 20:00:00,Heparin,Not Given,,2130-05-02 20:05:00\n"},
    {"inputevents.csv", "subject_id,hadm_id,stay_id,starttime,endtime,storetime,itemid,amount,amountuom,rate,rateuom,"
                        "orderid,statusdescription\n"
                        "1,11,7,2151-03-01 21:00:00,2151-03-01 23:00:00,2151-03-01 22:59:00,225158,250,ml,125,mL/hour,33,"
                        "FinishedRunning\n"
                        "1,11,7,2151-03-01 21:30:00,2151-03-01 22:00:00,2151-03-01 22:00:00,225158,0,ml,0,mL/hour,34,Rewritten\n"},
    {"ingredientevents.csv", "subject_id,hadm_id,stay_id,starttime,endtime,storetime,itemid,amount,amountuom,rate,"
                             "rateuom,orderid,statusdescription\n"
                             "1,11,7,2151-03-01 21:00:00,2151-03-01 23:00:00,2151-03-01 22:59:00,220490,250,ml,125,mL/hour,33,"
                             "FinishedRunning\n"},
    {"d_labitems.csv", "itemid,label,fluid,category\n50912,Creatinine,Blood,Chemistry\n51003,Troponin T,Blood,Chemistry\n"},
    {"d_items.csv", "itemid,label\n225158,NaCl 0.9%\n"},
    {"d_icd_diagnoses.csv", "icd_code,icd_version,long_title\nI5023,10,Acute on chronic systolic heart failure\n"},
    {"datetimeevents.csv", "subject_id,value\n1,2150-01-01\n"},
};
enum { N_FIXTURE = sizeof fixture / sizeof *fixture };

#endif
