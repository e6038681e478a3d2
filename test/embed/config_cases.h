// The broken configs of promise 34: each with the line and the key that its message names.
#pragma once

#include <string>
#include <vector>

namespace perilune::test {

struct BrokenConfig {
    const char* name;    // of the test
    const char* text;    // of config.lua
    int line;            // that the message names
    const char* begins;  // what the message says after file and line
    const char* remedy;  // what it says somewhere after that
};

// Next to the config are service/good.lua, service/bad.lua (a syntax error on line 2) and
// service/options.lua, which declares options.
inline const std::vector<BrokenConfig> kBrokenConfigs = {
    // What is no table.
    {"empty", "", 1, "the file has to return a table", "return { ... }"},
    {"a number", "return 7", 1, "the file has to return a table, not number", "return {"},
    {"no end", "return {\n  name = \"x\"\n", 3, "'}' expected (to close '{' at line 1)", ""},
    {"bad syntax", "return {\n  name = \"x\"\n  data = \"y\",\n}", 3, "'}' expected",
     "near 'data'"},
    {"not closed", "return {\n  name = \"x,\n}", 2, "unfinished string", ""},
    {"bytecode", "\x1bLJ\x02", 1, "this is bytecode", "only text"},
    {"loop", "while true do end", 1, "it runs for more than", "loop"},
    {"loop that catches its end",
     "while true do\n  coroutine.resume(coroutine.create(function() while true do end end))\nend",
     2, "attempt to index global 'coroutine'", ""},
    {"error", "local t\nreturn { name = t.x }", 2, "attempt to index local 't'", ""},
    {"no io", "local io = io.open('x')\nreturn {}", 1, "attempt to index global 'io'", ""},
    {"memory", "local t = {}\nfor i = 1, 1e9 do\n t[i] = ('x'):rep(100000) .. i\nend\nreturn t", 1,
     "it needs more than 64 MB", ""},
    {"no include", "return {\n  log = include(\"nothing.lua\"),\n}", 2, "",
     "nothing.lua can't be read"},
    // Keys.
    {"unknown", "return {\n  wrokers = 2,\n}", 2, "wrokers: ", "Did you mean \"workers\"?"},
    {"unknown inside", "return {\n  log = {\n    levle = \"info\",\n  },\n}", 3,
     "log.levle: ", "Did you mean \"level\"?"},
    {"in the wrong place", "return {\n  memory_mb = 3,\n}", 2,
     "memory_mb: ", "Did you mean \"lua.memory_mb\"?"},
    {"unknown of a service",
     "return {\n  services = {\n    { script = \"good\", nmae = \"x\" },\n  },\n}", 3,
     "services[1].nmae: ", "Did you mean \"name\"?"},
    {"nowhere near", "return { zzzzzzz = 1 }", 1, "zzzzzzz: ", "perilune help config"},
    {"twice", "return {\n  workers = 1,\n  workers = 2,\n}", 3, "workers: it is given twice",
     "first on line 2"},
    {"without a name", "return {\n  name = \"x\",\n  3,\n}", 3, "[1]: ", "name = value"},
    // Types.
    {"string for number", "return {\n  workers = \"four\",\n}", 2,
     "workers: ", "a whole number from 0 to 256 threads; the default is 0"},
    {"fraction", "return {\n  workers = 1.5,\n}", 2, "workers: it has to be a whole number", "1.5"},
    {"number for string", "return {\n  name = 3,\n}", 2, "name: it has to be a string",
     "name = \"node\""},
    {"number for boolean", "return {\n  lua = { jit = 1 },\n}", 2, "lua.jit: ", "true or false"},
    {"value for section", "return {\n  log = \"info\",\n}", 2, "log: it has to be a table",
     "log = { ... }"},
    {"table for number", "return {\n  call_limit_ms = {},\n}", 2, "call_limit_ms: ", "a table"},
    {"list of numbers", "return {\n  trusted = { 1 },\n}", 2, "trusted[1]: ", "trusted = {"},
    {"services no list", "return {\n  services = \"good\",\n}", 2,
     "services: ", "{ { script = \"...\" } }"},
    {"service no table", "return {\n  services = { \"good\" },\n}", 2,
     "services[1]: ", "{ script = \"...\""},
    {"function", "return {\n  env = {\n    f = function() return 1, 2 end,\n  },\n}", 3,
     "env.f: ", "is a function"},
    {"cycle", "local e = {}\ne.e = e\nreturn {\n  env = e,\n}", 4, "env.e: ", "contains itself"},
    {"root cycle", "local t = {}\nt.env = t\nreturn t", 1, "env: ", "contains itself"},
    // Ranges.
    {"too many", "return {\n  workers = 1000,\n}", 2, "workers: 1000 is out of range", "0 to 256"},
    {"negative", "return {\n  call_limit_ms = -1,\n}", 2, "call_limit_ms: -1 is out of range",
     "ms"},
    {"huge", "return {\n  mailbox = { messages = 1e300 },\n}", 2,
     "mailbox.messages: ", "16 to 1000000"},
    {"not a number", "return {\n  workers = 0/0,\n}", 2, "workers: ", "whole number"},
    {"signal", "return {\n  watchdog = {\n    signal = 9,\n  },\n}", 3,
     "watchdog.signal: ", "35 to 64"},
    {"level", "return {\n  log = { level = \"loud\" },\n}", 2, "log.level: \"loud\"",
     "trace, debug, info, warn, error or off"},
    {"level of a service", "return {\n  log = { levels = { gateway = \"inof\" } },\n}", 2,
     "log.levels.gateway: ", "Did you mean \"info\"?"},
    {"format", "return {\n  log = { format = \"xml\" },\n}", 2, "log.format: ", "text or json"},
    {"name", "return {\n  name = \"my node\",\n}", 2, "name: ", "letters, digits"},
    // The world around.
    {"no script", "return {\n  services = {\n    { script = \"goood\" },\n  },\n}", 3,
     "services[1].script: there is no script \"goood\"", "Did you mean \"good\"?"},
    {"no script name", "return {\n  services = {\n    { name = \"x\" },\n  },\n}", 3,
     "services[1]: ", "script = "},
    {"path as script", "return {\n  services = { { script = \"../good\" } },\n}", 2,
     "services[1].script: ", "no name of a script"},
    {"script does not parse", "return {\n  services = {\n    { script = \"bad\" },\n  },\n}", 3,
     "services[1].script: ", "service/bad.lua:2: "},
    {"name taken",
     "return {\n  services = {\n    { script = \"good\" },\n    { script = \"good\" },\n  },\n}", 4,
     "services[2].name: the name \"good\" is taken by services[1]", "another"},
    {"no folder", "return {\n  paths = { \"nowhere\" },\n}", 2, "paths[1]: ", "no folder"},
    {"no folder for data", "return {\n  data = \"config.lua/x\",\n}", 2, "data: ", "is no folder"},
    {"no folder for the log", "return {\n  log = { file = \"nowhere/x.log\" },\n}", 2,
     "log.file: ", "doesn't exist"},
    {"trusted script", "return {\n  trusted = { \"godo\" },\n}", 2,
     "trusted[1]: ", "Did you mean \"good\"?"},
    // What a script declares.
    {"unknown option",
     "return {\n  services = {\n    { script = \"options\",\n      options = { prot = 1 } },\n  "
     "},\n}",
     4, "services[1].options.prot: ", "Did you mean \"port\"?"},
    {"type of an option",
     "return {\n  services = { { script = \"options\", options = { port = \"x\" } } },\n}", 2,
     "services[1].options.port: ", "a whole number from 1 to 65535; the default is 6080"},
    {"range of an option",
     "return {\n  services = { { script = \"options\", options = { port = 70000 } } },\n}", 2,
     "services[1].options.port: 70000 is out of range", "1 to 65535"},
    {"choice of an option",
     "return {\n  services = { { script = \"options\", options = { mode = \"fats\" } } },\n}", 2,
     "services[1].options.mode: ", "Did you mean \"fast\"?"},
    {"unknown option in a list",
     "return {\n  services = { { script = \"options\", options = { listen = {\n    { port = 1 },\n"
     "    { port = 1, prot = 2 } } } } },\n}",
     4, "services[1].options.listen[2].prot: ", "Did you mean \"port\"?"},
    {"range of an option in a list",
     "return {\n  services = { { script = \"options\", options = { listen = {\n    { port = 0 },\n"
     "  } } } },\n}",
     3, "services[1].options.listen[1].port: 0 is out of range", "1 to 65535"},
    {"missing option in a list",
     "return {\n  services = { { script = \"options\", options = { listen = { {} } } } },\n}", 2,
     "services[1].options.listen[1]: the option \"port\" is missing", "TCP"},
    {"no table in a list",
     "return {\n  services = { { script = \"options\", options = { listen = { 5 } } } },\n}", 2,
     "services[1].options.listen[1]: it has to be a table", "number 5"},
    {"no list",
     "return {\n  services = { { script = \"options\", options = { listen = { port = 1 } } } },\n}",
     2, "services[1].options.listen.port: it is no part of a list", "{ { ... }, { ... } }"},
    {"options no table", "return {\n  services = { { script = \"options\", options = 7 } },\n}", 2,
     "services[1].options: ", "options = { ... }"},
};

}  // namespace perilune::test
