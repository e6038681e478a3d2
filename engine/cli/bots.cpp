#include <charconv>
#include <cstdio>

#include "cli/commands.h"
#include "perilune/node.h"

namespace perilune::cli {

namespace {

// Options that the command doesn't know are for the bots: --room=lobby.
bool split_option(const std::string& word, std::string& name, std::string& value) {
    if (word.compare(0, 2, "--") != 0) return false;
    const std::size_t equals = word.find('=');
    if (equals == std::string::npos) return false;
    name = word.substr(2, equals - 2);
    value = word.substr(equals + 1);
    return true;
}

Value number_or_text(const std::string& word) {
    double number = 0;
    const char* const end = word.data() + word.size();
    const auto [read_to, error] = std::from_chars(word.data(), end, number);
    return error == std::errc() && read_to == end ? Value(number) : Value(word);
}

}  // namespace

int bots(Arguments& arguments) {
    Table options = {
        {"count", arguments.number("count", 50, 1, 100'000)},
        {"host", arguments.text("host", "127.0.0.1")},
        {"port", arguments.number("port", 6080, 1, 65'535)},
        {"seconds", arguments.number("seconds", 10, 1, 86'400)},
        {"rate", number_or_text(arguments.text("rate", "1"))},
    };
    if (const std::string problem = arguments.problem(false); !problem.empty()) {
        return misuse("bots", problem);
    }
    std::string mode;
    for (const std::string& word : arguments.rest()) {
        std::string name;
        std::string value;
        if (split_option(word, name, value)) {
            options.emplace_back(name, number_or_text(value));
        } else if (mode.empty() && word[0] != '-') {
            mode = word;
        } else {
            return misuse("bots", "\"" + word + "\" is not expected here");
        }
    }
    if (mode.empty()) return misuse("bots", "it wants a mode: chat");
    options.emplace_back("mode", mode);

    Config config;
    config.name = "bots";
    config.trusted = {"bots"};  // so that it prints its progress
    config.log.level = "off";   // a mode that isn't there is one line, below
    config.data = "/tmp";       // bots write nothing
    config.lua.memory_mb = 2048;
    Node node(std::move(config));
    if (const Status status = node.start(); !status.ok()) {
        std::fprintf(stderr, "perilune bots: %s\n", status.message());
        return 1;
    }
    const Value given(std::move(options));
    const Result<std::uint64_t> service = node.spawn("bots", given);
    if (!service.ok()) {
        std::fprintf(stderr, "perilune bots: %s\n", service.status().message());
        return 1;
    }
    const CallResult result = node.call(service.value(), "run", {given}, 0);
    node.stop();
    if (!result.ok()) {
        std::fprintf(stderr, "perilune bots: %s\n%s\n", result.message.c_str(),
                     result.traceback.c_str());
        return 1;
    }
    return result.value(1).boolean(true) && result.value(1)["ok"].boolean(true) ? 0 : 1;
}

}  // namespace perilune::cli
