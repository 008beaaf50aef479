/* import_omop.h - for tests of the import of OMOP files: the sample that comes with the tests, one invented person. */
#ifndef EHR_TESTS_IMPORT_OMOP_H
#define EHR_TESTS_IMPORT_OMOP_H
#include "tests/import_check.h"

#define FIXTURE "tests/fixtures/omop-synthea27nj.zip"
#define PERSON_HEAD "person_id,gender_concept_id,year_of_birth,month_of_birth,day_of_birth,race_concept_id,ethnicity_concept_id\n"
#define PERSON_1 PERSON_HEAD "1,8532,1950,6,15,8527,0\n"
#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, folder_open, folder_close)

#endif
