// Config: everything that can be set about a node.
//
// Purpose:   one struct for C++ programs and for config.lua, which has the same keys. Each member
//            says its unit, its limits and what it means; its initial value is its default.
// Threads:   a value.
// Ownership: owns all that it holds. A Node copies the one that it is given.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "perilune/value.h"

namespace perilune {

// A service that a node starts by itself.
struct ServiceConfig {
    // Name of a file on the script path, without .lua, or of a registered native service.
    std::string script;

    // The name that others call it by, up to 128 bytes. Empty: `script`.
    std::string name;

    // Given to its on_start.
    Value options;

    // Not empty: the service is light and shares a VM with the others of this group.
    std::string group;

    // Most Lua memory that it may hold, in MB, 0 to 65,536. 0: `lua.memory_mb`.
    int memory_mb = 0;

    // Most messages that may wait for it, 0 to 1,000,000. 0: `mailbox.messages`.
    int mailbox = 0;

    // Where it was configured, for messages: "config.lua:12: services[3]". Empty: nowhere.
    std::string origin;
};

struct Config {
    // The node's name in logs and in the names of others; letters, digits, '-', '_' and '.'.
    std::string name = "node";

    // Started in this order, each after the on_start of the one before; stopped in reverse.
    std::vector<ServiceConfig> services;

    // Read by services with perilune.env(name): a table of names and values.
    Value env;

    // Scripts that get the whole of Lua (io, os, debug, ffi, jit) instead of the allow-list.
    std::vector<std::string> trusted;

    // --- where things are; a relative path starts at `base` ---

    // Folders that are searched for scripts and modules, in this order; after them `base`/service,
    // `base`/lualib and those of the engine.
    std::vector<std::string> paths;

    // Folder below which perilune.file may read and write; made when it is missing.
    std::string data = "data";

    // Where relative paths start. load_config() sets it to the folder of the file. Not a key of
    // config.lua.
    std::string base = ".";

    // Folder that holds the engine's own lualib/ and service/. Empty: looked for above the
    // program, as <folder>/share/perilune and as <folder>, then where the library was installed,
    // PREFIX/share/perilune. Not a key of config.lua.
    std::string home;

    // --- threads ---

    // Threads that run services, 0 to 256. 0: one a core.
    int workers = 0;

    // More threads, started while all workers are stuck in long dispatches, 0 to 64.
    int spare_workers = 4;

    struct Watchdog {
        // A dispatch that takes longer is reported with its traceback; ms, 1 to 3,600,000.
        int report_ms = 100;

        // A request that takes longer is ended, its caller gets an error and the service lives
        // on; ms, 10 to 3,600,000.
        int interrupt_ms = 5000;

        // The real-time signal that interrupts, 35 to 64. 0: SIGRTMIN + 4. Several nodes of a
        // process may share one; the program must not use it otherwise.
        int signal = 0;
    } watchdog;

    // Where work runs that would block a worker for long: looking host names up.
    struct Blocking {
        // Threads, 0 to 256. 0: one a core, at most 4.
        int threads = 0;

        // Pieces of work that may wait, 1 to 1,000,000; one more is refused as "busy".
        int queue = 256;
    } blocking;

    // --- limits ---

    // How long perilune.call waits for a reply; ms, 0 to 86,400,000. 0: for ever.
    int call_limit_ms = 5000;

    // How long on_start of a service may take; ms, 100 to 86,400,000.
    int start_limit_ms = 30000;

    // How long stopping the node may take in all; ms, 100 to 86,400,000. What still lives
    // after that is killed.
    int stop_limit_ms = 30000;

    struct Mailbox {
        // Messages that may wait for one service, 16 to 1,000,000.
        int messages = 65536;

        // ... and their size in MB, 1 to 65,536.
        int mb = 64;

        // Size of what waits in all mailboxes of the node, in MB, 1 to 1,048,576.
        int node_mb = 1024;
    } mailbox;

    struct Lua {
        // Memory of a service, or of a group of light ones, in MB, 1 to 65,536. Over it the
        // service ends, or the largest of the group.
        int memory_mb = 256;

        // Whether services are compiled to machine code.
        bool jit = true;

        // VMs that may have the compiler at a time, 1 to 4,096: more make every error slow.
        int jit_vms = 256;

        // Processor time after which a VM gets the compiler; ms, 0 to 3,600,000.
        int jit_after_ms = 50;

        // Light services to a VM, 1 to 4,096.
        int group_size = 512;
    } lua;

    struct Log {
        // What is logged: "trace", "debug", "info", "warn", "error" or "off".
        std::string level = "info";

        // Levels of single services, by name.
        std::map<std::string, std::string> levels;

        // "text" or "json".
        std::string format = "text";

        // Where it goes, besides the file: "stderr", "stdout" or "none".
        std::string stream = "stderr";

        // A file, or empty for none; its folder must exist.
        std::string file;

        // A file that is larger is rotated; MB, 1 to 65,536.
        int file_mb = 64;

        // Old files kept as name.1.log and so on, 0 to 1,000.
        int files = 5;

        // Records that may wait to be written, 64 to 1,000,000; then the oldest are dropped.
        int queue = 8192;
    } log;

    // Where keys were configured, for messages: "services[3].options.port" -> "config.lua:13".
    // load_config() fills it. Not a key of config.lua.
    std::map<std::string, std::string> origins;

    // > 0: one thread, virtual time, no real sockets, and the same order of events each time.
    // For tests. Not a key of config.lua.
    std::uint64_t seed = 0;
};

// What became of a config file.
struct ConfigCheck {
    Config config;

    // Empty when all is well. Else a line for each mistake, in the order of the file:
    //   config.lua:12: log.level: "loud" is no level. Use one of trace, debug, info, ...
    std::vector<std::string> problems;

    bool ok() const { return problems.empty(); }
};

// Reads a config file and checks all that can be known without starting anything: keys, types
// and ranges, that the scripts of its services exist and parse, and their options where a script
// declares them. The file runs in a Lua of its own without io and os, for a second at most.
// `home` becomes Config::home; empty: it is looked for.
ConfigCheck load_config(const std::string& file, const std::string& home = {});

// Every option of config.lua with its type, limits, default and meaning, as a table to read.
std::string describe_config();

}  // namespace perilune
