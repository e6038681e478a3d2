#include <cstdio>
#include <cstring>

#include "cli/commands.h"
#include "perilune/config.h"

namespace perilune::cli {

namespace {

struct Topic {
    const char* name;
    const char* line;
    const char* text;
};

constexpr Topic kTopics[] = {
    {"run", "perilune [config.lua]      runs a node; the default is ./config.lua",
     "perilune [config.lua]\n\n"
     "Runs the node of a config file until SIGINT (Ctrl-C) or SIGTERM, which stop its services\n"
     "in order; a second one ends the process at once. SIGHUP loads all changed scripts again.\n"
     "Exit code 0 after an orderly stop, 1 when it could not start or something had to be\n"
     "killed.\n"},
    {"check", "perilune check [file]      looks for mistakes in a config, starts nothing",
     "perilune check [config.lua]\n\n"
     "Reads a config file and checks its keys, types and ranges, that the scripts of its services\n"
     "exist and parse, and the options that they declare. One line for each mistake:\n"
     "    config.lua:12: log.levle: there is no such option. Did you mean \"level\"?\n"},
    {"test", "perilune test <paths>      runs tests of services",
     "perilune test <folders or files> [--filter text] [--seed n] [--limit seconds] [--verbose]\n\n"
     "Runs each file named *_test.lua as a service in a node of its own, on the script path of\n"
     "the current folder and with the whole of Lua, and calls its command `run`.\n"
     "  --filter text    only tests whose name contains the text; an error when there is none\n"
     "  --seed n         one thread, virtual time, and the same order of events each time\n"
     "  --limit seconds  for each file; default 120\n"
     "  --verbose        names the tests that passed, too, and shows the nodes' logs\n"},
    {"bots", "perilune bots <mode>       lets clients play against a node, e.g. `bots chat`",
     "perilune bots <mode> [--count n] [--host name] [--port n] [--seconds n] [--rate n]\n\n"
     "Starts clients against a running node and prints what they sent and got, and how fast.\n"
     "  <mode>           chat: they talk in the talkroom, and check every line that they get\n"
     "  --count n        clients, 1 to 100000; default 50\n"
     "  --host name      default 127.0.0.1\n"
     "  --port n         default 6080\n"
     "  --seconds n      how long; default 10\n"
     "  --rate n         messages a second of each client; default 1\n"
     "Other options are given to the bots as they are, --name=value:\n"
     "  --url=ws://127.0.0.1:6081  by WebSocket; with --url_share=0.5 every second of them;\n"
     "                   also wss://, tcp+tls:// and tcp+encrypted://\n"
     "  --udp=0.5        every second of them sends by UDP\n"
     "  --server_key=<64 digits>  which an encrypting gateway must have\n"
     "  --echo_ms=500    each also asks for something that is answered to it alone, so often\n"},
    {"version", "perilune version           says which version this is", "perilune version\n"},
    {"help", "perilune help [topic]      this page, a command, or `config`: all options", ""},
};

}  // namespace

int misuse(const std::string& command, const std::string& problem) {
    std::fprintf(stderr, "perilune %s: %s. `perilune help %s` says how.\n", command.c_str(),
                 problem.c_str(), command.c_str());
    return 2;
}

int help(const std::string& topic) {
    if (topic == "config") {
        std::fputs(describe_config().c_str(), stdout);
        return 0;
    }
    for (const Topic& known : kTopics) {
        if (topic != known.name || *known.text == '\0') continue;
        std::fputs(known.text, stdout);
        return 0;
    }
    const bool is_known = topic.empty() || topic == "help";
    if (!is_known) std::fprintf(stderr, "perilune help: there is no \"%s\"\n", topic.c_str());
    std::puts("Perilune: actors in Lua for game servers.\n");
    for (const Topic& known : kTopics) std::printf("  %s\n", known.line);
    return is_known ? 0 : 2;
}

}  // namespace perilune::cli
