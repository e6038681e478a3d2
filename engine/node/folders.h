// Folders: where a node finds the engine's own Lua files and the game's scripts.
//
// Purpose:   one answer for the check of a config and for the node that runs it.
// Threads:   functions without state.
// Ownership: values.
#pragma once

#include <string>
#include <vector>

#include "perilune/config.h"

namespace perilune {

// `path` as it is when absolute, else below config.base.
std::string resolve_path(const Config& config, const std::string& path);

// The folder that holds the engine's lualib/ and service/: config.home, or what is found above
// the program: <folder>/share/perilune of an installation, or the source tree of a build; or the
// folder that the library was installed with (PERILUNE_DATA). "" when there is none.
std::string find_home(const Config& config);
// PREFIX/share/perilune of `make install`, whether it is there or not.
std::string installed_home();

// Where scripts and modules of the game are looked for, first to last.
std::vector<std::string> script_folders(const Config& config);

bool is_folder(const std::string& path);
bool is_file(const std::string& path);

}  // namespace perilune
