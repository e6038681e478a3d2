// The program: `perilune [config.lua]` runs a node; other commands are in cli/.
//
// Signals are handled here alone. They are blocked in all threads; one thread waits for them.
//   SIGINT, SIGTERM  stop the node in order; a second one ends the process at once
//   SIGHUP           loads changed scripts again; `test` and `bots` ignore it, since they bear the
//                    same name as a node that somebody may want to tell by `pidof`
//   SIGPIPE          is ignored: a peer that went is an error of the write
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <thread>

#include "cli/commands.h"
#include "perilune/node.h"

namespace {

using perilune::Node;

// The thread that waits for signals.
class Signals {
  public:
    // Before any other thread is made: they inherit what is blocked.
    Signals() {
        sigemptyset(&set_);
        for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&set_, signal);
        pthread_sigmask(SIG_BLOCK, &set_, nullptr);
    }
    ~Signals() { finish(); }

    // From now on nothing is called any more; what is being called ends first.
    void finish() {
        if (!thread_.joinable()) return;
        finished_.store(true);
        pthread_kill(thread_.native_handle(), SIGTERM);
        thread_.join();
        if (stopper_.joinable()) stopper_.join();
        if (reloader_.joinable()) reloader_.join();
    }

    void start(std::function<void()> stop, std::function<void()> reload) {
        stop_ = std::move(stop);
        reload_ = std::move(reload);
        thread_ = std::thread([this] { run(); });
    }

  private:
    // Neither is done here: a second signal has to be heard meanwhile.
    void run() {
        for (;;) {
            int signal = 0;
            if (sigwait(&set_, &signal) != 0 || finished_.load()) return;
            if (signal == SIGHUP) {
                // While scripts are loaded they may change again: then they are loaded once more.
                if (reloads_asked_.fetch_add(1) != 0) continue;
                if (reloader_.joinable()) reloader_.join();
                reloader_ = std::thread([this] { run_reloads(); });
            } else if (stopper_.joinable()) {
                _exit(128 + signal);
            } else {
                stopper_ = std::thread(stop_);
            }
        }
    }

    void run_reloads() {
        int answered = 0;
        do {
            answered = reloads_asked_.load();
            reload_();
        } while (reloads_asked_.fetch_sub(answered) != answered);
    }

    sigset_t set_;
    std::function<void()> stop_;
    std::function<void()> reload_;
    std::thread thread_;
    std::thread stopper_;
    std::thread reloader_;
    std::atomic<int> reloads_asked_{0};  // and not done
    std::atomic<bool> finished_{false};
};

// As many open files as the system allows: each client is one.
void raise_file_limit() {
    rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
}

std::string joined(const std::vector<std::string>& words) {
    std::string text;
    for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
    return text;
}

// The arguments that let bots chat through the gateway that the config names; "" where they can't.
std::string bots_command(const Node& node) {
    const auto& services = node.config().services;
    const auto is_talkroom = [](const auto& service) { return service.script == "talkroom"; };
    if (std::none_of(services.begin(), services.end(), is_talkroom)) return {};
    for (const perilune::ServiceConfig& service : services) {
        if (service.script != "gateway") continue;
        const perilune::Value& listen = service.options["listen"];
        if (listen.is_nil()) return " bots chat --count 2 --port 6080";
        for (const auto& [index, entry] : listen.table()) {
            const std::string& kind = entry["kind"].string();
            if (!kind.empty() && kind != "tcp") continue;
            if (!entry["tls"].is_nil() || !entry["encrypt"].is_nil()) continue;
            std::string host = entry["host"].string();
            if (host == "*" || host == "0.0.0.0" || host == "::") host.clear();
            std::int64_t port = entry["port"].integer();
            // Any free one: the node knows which, if it listens nowhere else.
            const std::vector<std::string> addresses = node.addresses();
            if (port == 0 && addresses.size() == 1) {
                port = std::atoi(addresses[0].c_str() + addresses[0].rfind(':') + 1);
            }
            if (port == 0) continue;
            return " bots chat --count 2 --port " + std::to_string(port) +
                   (host.empty() || host == "127.0.0.1" ? "" : " --host " + host);
        }
    }
    return {};
}

// `program`: as it was called.
void print_start(const Node& node, const char* program) {
    const std::size_t services = node.config().services.size();
    std::string line = "perilune " + std::string(perilune::version()) + ": " + node.config().name +
                       " runs " + std::to_string(services) +
                       (services == 1 ? " service" : " services");
    const std::vector<std::string> addresses = node.addresses();
    if (!addresses.empty()) line += ", listens on " + joined(addresses);
    std::printf("%s. Stop it with Ctrl-C.\nLoad changed scripts with: kill -HUP %d\n", line.c_str(),
                static_cast<int>(getpid()));
    if (const std::string bots = bots_command(node); !bots.empty()) {
        std::printf("Try it with: %s%s\n", program, bots.c_str());
    }
    if (perilune::stock_luajit()) {
        std::puts("perilune: built with Debian's own LuaJIT: services run interpreted.");
    }
    std::fflush(stdout);
}

void reload(Node& node) {
    const perilune::Result<perilune::ReloadResult> result = node.reload();
    if (!result.ok()) {
        node.log_error(std::string("reload: ") + result.status().message());
    } else if (result.value().services == 0 && result.value().problems.empty()) {
        node.log_info("reload: no script has changed");
    }
    // What was loaded, and what could not be, the engine has logged.
}

int run(const char* program, const std::string& file) {
    raise_file_limit();
    perilune::ConfigCheck check = perilune::load_config(file);
    for (const std::string& problem : check.problems) {
        std::fprintf(stderr, "%s\n", problem.c_str());
    }
    if (!check.ok()) return 1;

    Node node(std::move(check.config));
    std::atomic<bool> orderly{true};
    std::atomic<bool> asked{false};
    Signals signals;
    signals.start(
        [&] {
            asked.store(true);
            orderly.store(node.stop());
        },
        [&] { reload(node); });
    if (const perilune::Status status = node.start(); !status.ok()) {
        signals.finish();
        if (asked.load()) return 0;
        std::fprintf(stderr, "%s\n", status.message());
        return 1;
    }
    print_start(node, program);
    node.wait();
    signals.finish();
    if (orderly.load()) return 0;
    std::fflush(nullptr);
    _exit(1);  // a thread may be left that uses what would be destroyed now
}

}  // namespace

int main(int count, char** words) {
    signal(SIGPIPE, SIG_IGN);
    const std::string command = count > 1 ? words[1] : "config.lua";
    perilune::cli::Arguments arguments(count > 1 ? count - 2 : 0, words + (count > 1 ? 2 : 1));
    if (arguments.flag("help") || arguments.flag("h")) return perilune::cli::help(command);
    if (command == "check") return perilune::cli::check(arguments);
    if (command == "test" || command == "bots") signal(SIGHUP, SIG_IGN);
    if (command == "test") return perilune::cli::test(arguments);
    if (command == "bots") return perilune::cli::bots(arguments);
    if (command == "help" || command == "--help" || command == "-h") {
        return perilune::cli::help(arguments.rest().empty() ? "" : arguments.rest()[0]);
    }
    if (command == "version" || command == "--version") {
        std::printf("perilune %s\n", perilune::version());
        return 0;
    }
    const bool is_file =
        command.find('.') != std::string::npos || access(command.c_str(), F_OK) == 0;
    if (command[0] == '-' || !is_file) {
        const char* const what = command[0] == '-' ? "option" : "command, and no file";
        std::fprintf(stderr,
                     "perilune: there is no %s \"%s\". `perilune help` lists the commands.\n", what,
                     command.c_str());
        return 2;
    }
    if (!arguments.rest().empty()) {
        return perilune::cli::misuse("run", "one config file is enough");
    }
    return run(words[0], command);
}
