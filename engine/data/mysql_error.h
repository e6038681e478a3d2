// MySQL errors: the servers' and the library's numbers in our words.
//
// Threads:   any; pure functions.
#pragma once

#include "data/sql.h"

namespace perilune {

// `state`: the SQLSTATE that came with it.
SqlCode mysql_code(unsigned native, const char* state);
// Whether the connection is of no use after it.
bool mysql_ends_connection(unsigned native);
// Whether the statement, which was sent, may have taken effect nevertheless.
bool mysql_leaves_unknown(unsigned native);

}  // namespace perilune
