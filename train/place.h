/* place.h - where a rank computes: the device, what it computes in, and how much of the device is its own. */
#ifndef EHR_TRAIN_PLACE_H
#define EHR_TRAIN_PLACE_H
#include "train/dist.h"
#include "train/options.h"

typedef struct {
    Device *dev;
    DType   dtype;
    int     sharers;   /* ranks on this GPU, this one included; 1 on the CPU */
    double  available; /* bytes of the device that this rank can have */
    char    why[512];  /* "": all is well; else why --device auto left a GPU that is there unused */
} Place;

/* Collective.  GPU = local rank, round robin when there are fewer; --device auto falls back to the CPU.  All ranks get the
 * same kind of device and dtype, or all fail alike.  Sets o->threads. */
Status place_open(Place *p, TrainOptions *o, Dist *dist, Err *err);

#endif
