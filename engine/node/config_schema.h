// ConfigSchema: the table of all options, and what follows from it.
//
// Purpose:   one row an option says its key, type, limits, unit and meaning; reading a file,
//            checking a struct that a program filled in, and the reference page all go by it.
// Threads:   functions without state.
// Ownership: the table is constant; nothing is kept.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "perilune/config.h"

namespace perilune {

using StringList = std::vector<std::string>;
using StringMap = std::map<std::string, std::string>;

template <typename Owner>
struct ConfigOption {
    // Which member holds it; so its type, and in a fresh Owner its default.
    using Field = std::variant<bool& (*)(Owner&), int& (*)(Owner&), std::string& (*)(Owner&),
                               StringList& (*)(Owner&), StringMap& (*)(Owner&), Value& (*)(Owner&)>;

    const char* key;  // "log.level"
    Field field;
    const char* meaning;
    const char* unit = "";  // "ms", "MB"
    int minimum = 0;        // of a number
    int maximum = 0;
    const char* choices = "";  // of a text, or of the texts of a map: "text|json"; "": any
};

const std::vector<ConfigOption<Config>>& config_options();
const std::vector<ConfigOption<ServiceConfig>>& service_options();

// Told of each mistake: where, as a path (see ConfigLines), and what with its remedy.
using ConfigProblems = std::function<void(const std::string& path, const std::string& text)>;

// Reads what config.lua returned. `origin` of each service is its path.
Config read_config_value(const Value& root, const ConfigProblems& problems);

// What names a service in messages: its origin, or its place in the list.
std::string service_path(const Config& config, std::size_t index);

// Checks the limits of all options of a Config, wherever it came from.
void check_limits(const Config& config, const ConfigProblems& problems);

// Checks `options`, at `path`, by what a script declares: a table of
//   name = { type = "integer", default = 6080, min = 1, max = 65535, choices = { ... },
//            required = true, unit = "ms", meaning = "..." }
// or of name = "integer". Types: boolean, integer, number, string, table, any. A table with
// items = { ... } is a list of tables, whose options these are, declared in the same way. The same
// table is read by lualib/perilune/options.lua.
void check_declared(const Value& declared, const Value& options, const std::string& path,
                    const ConfigProblems& problems);

// " Did you mean \"x\"?" for the nearest of `candidates`, or "".
std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace perilune
