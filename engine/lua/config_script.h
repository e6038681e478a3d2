// ConfigScript: runs config.lua, and looks at scripts, in a Lua of its own.
//
// Purpose:   what a node wants to know before it starts anything. Each call makes a bare state:
//            no io, no os, no bytecode, a limit of time and of memory, no compiler.
// Threads:   any; a call shares nothing with others.
// Ownership: results own all that they hold.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "perilune/value.h"

namespace perilune {

struct ScriptLimits {
    int time_ms = 1000;
    std::size_t memory_bytes = std::size_t{64} << 20;
};

struct ConfigScriptResult {
    // What the file returned, without what is no data.
    Value value;

    // Why there is no value, as Lua says it: "config.lua:12: '}' expected near 'x'".
    std::string error;

    // What was left out, e.g. {"services[1].options.x", "is a function"}.
    struct LeftOut {
        std::string path;
        std::string what;
    };
    std::vector<LeftOut> left_out;
};

// Runs `text`, called `name` in messages, and returns the table that it returns. The file has
//   env(name, default)  a variable of the process's environment, of the type of the default
//   include(file)       what another file returns; relative to `folder`
// besides the harmless part of Lua.
ConfigScriptResult run_config(const std::string& name, const std::string& text,
                              const std::string& folder, const ScriptLimits& limits = {});

// Parses a script without running it. Empty, or the parser's "name:line: message". Lua shortens
// a name over 58 bytes.
std::string check_syntax(const std::string& name, const std::string& text);

// The table `options` in the first table that a service's script returns: which options it
// takes. Nil when it has none, or when that can't be found out without the engine. The script
// runs with a stand-in for all that the engine gives; `find` names the file of a module of the
// game, or "".
Value declared_options(const std::string& path, const std::string& text,
                       const std::function<std::string(const std::string& module)>& find);

// A file's content. False when it can't be read.
bool read_text(const std::string& path, std::string& text);

// How a key is written in the path to a value: ".port", "[3]", "[\"a b\"]".
std::string path_step(std::string_view key);
std::string path_step(double key);

}  // namespace perilune
