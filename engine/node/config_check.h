// ConfigCheck: what can be known of a config before anything is started.
//
// Purpose:   the checks behind load_config() and Node::start().
// Threads:   functions without state.
// Ownership: nothing is kept.
#pragma once

#include "node/config_schema.h"

namespace perilune {

// Checks all that needs more than the table of options: names, folders, scripts and the options
// that scripts declare. `is_native` says which scripts are native services: those have no file.
void check_world(const Config& config, const std::function<bool(const std::string&)>& is_native,
                 const ConfigProblems& problems);

// Why the engine's own scripts can't be found; "" when they can.
std::string home_problem(const Config& config);

// Names that follow from others: a service's from its script.
void complete(Config& config);

}  // namespace perilune
