// The commands of the program, apart from running a node, which main.cpp does.
//
// Purpose:   each takes the words behind its name and returns the exit code: 0 well done,
//            1 something failed, 2 the command line is wrong.
// Threads:   the main thread.
// Ownership: nothing is kept.
#pragma once

#include "cli/arguments.h"

namespace perilune::cli {

// perilune check [config.lua]
int check(Arguments& arguments);

// perilune test <folders or files> [--filter text] [--seed n] [--limit seconds] [--verbose]
int test(Arguments& arguments);

// perilune bots <mode> [--count n] [--host name] [--port n] [--seconds n] [--rate n] [--name=value]
int bots(Arguments& arguments);

// perilune help [topic]. `topic`: a command, "config" or "".
int help(const std::string& topic);

// Prints why the command line is wrong, and returns 2.
int misuse(const std::string& command, const std::string& problem);

}  // namespace perilune::cli
