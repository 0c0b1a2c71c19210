// Which rows an expert sees.
#pragma once
#include "pool.h"

namespace mohist {

// (row, choice) pairs sorted by expert, rows ascending: those of expert e are begin[e] .. begin[e + 1].
struct Groups {
  int64_t* begin;
  int32_t* place;   // [rows * top_k]: where a pair went
  int32_t* source;  // [rows * top_k]: the row behind a place
};

// In memory of the pool, until it is called again.
Groups group_by_expert(mohist_pool& pool, const int32_t* chosen, int64_t rows, int64_t top_k, int64_t experts);

}  // namespace mohist
