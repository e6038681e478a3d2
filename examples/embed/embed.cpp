// A program with a main loop of its own that embeds a node.
//
// It shows, in this order: a service written in C++, a module written in C++ that scripts
// require, a node in the program's process, and messages between the main loop and a service
// written in Lua (service/greeter.lua).
//
// Build and run: make && build/release/examples/embed/embed examples/embed
#include <perilune/node.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <map>
#include <mutex>
#include <queue>
#include <random>
#include <string>
#include <thread>

namespace {

// A service in C++. It runs on the node's workers, one message at a time, so its members need no
// lock; it must not block.
class ScoreBoard : public perilune::NativeService {
    perilune::Result<perilune::Values> on_message(perilune::Request& request) override {
        if (request.command() != "add") return request.unknown();
        const std::string& name = request.argument(1).string();
        if (name.empty()) {
            // What the caller's perilune.call raises.
            return perilune::Status::error(perilune::StatusCode::invalid, "who scored?");
        }
        scores_[name] += request.argument(2).number();
        return perilune::Values{best()};
    }

    std::string best() const {
        const auto* leader = &*scores_.begin();
        for (const auto& entry : scores_) {
            if (entry.second > leader->second) leader = &entry;
        }
        return leader->first;
    }

    std::map<std::string, double> scores_;
};

// What the main loop and the native module share. The module's functions run on the node's
// workers, several at once: hence the atomic.
struct World {
    std::atomic<int> frame{0};
};

// A module in C++: in Lua `local world = require "embed.world"`.
perilune::NativeModule world_module(World& world) {
    return {
        {"frame", [&world](perilune::Call&) -> perilune::Values { return {world.frame.load()}; }},
        {"random",
         [](perilune::Call& call) -> perilune::Values {
             // A wrong argument becomes "bad argument #1 to 'random' ..." in Lua.
             const std::int64_t low = call.integer(1);
             const std::int64_t high = call.integer(2, low);
             thread_local std::mt19937_64 generator{std::random_device{}()};
             return {std::uniform_int_distribution<std::int64_t>(low, high)(generator)};
         }},
    };
}

// Work that others leave for the main loop, which does it once a frame.
class Inbox {
  public:
    void post(std::function<void()> work) {
        const std::lock_guard lock(mutex_);
        work_.push(std::move(work));
    }
    void run() {
        std::queue<std::function<void()>> work;
        {
            const std::lock_guard lock(mutex_);
            work.swap(work_);
        }
        for (; !work.empty(); work.pop()) work.front()();
    }

  private:
    std::mutex mutex_;
    std::queue<std::function<void()>> work_;
};

}  // namespace

int main(int count, char** words) {
    World world;
    Inbox inbox;

    // What a config.lua would say. load_config("config.lua") reads one.
    perilune::Config config;
    config.name = "embed";
    config.base = count > 1 ? words[1] : "examples/embed";  // scripts are in service/ below it
    config.data = "/tmp";
    config.workers = 2;
    config.log.level = "warn";
    perilune::ServiceConfig scores;
    scores.script = "scores";  // the native service, by the name it is registered under
    perilune::ServiceConfig greeter;
    greeter.script = "greeter";
    greeter.options = perilune::Table{{"place", "morning"}};
    config.services = {scores, greeter};

    perilune::Node node(std::move(config));
    node.register_service("scores", [] { return std::make_unique<ScoreBoard>(); });
    node.register_module("embed.world", world_module(world));
    if (const perilune::Status status = node.start(); !status.ok()) {
        std::fprintf(stderr, "the node did not start: %s\n", status.message());
        return 1;
    }

    // The program's own loop: it never waits for a service. The answers come on a worker and are
    // handed over to the loop.
    const char* const names[] = {"Ada", "Grace", "Edsger"};
    int answers = 0;
    for (int frame = 1; frame <= 30; ++frame) {
        world.frame.store(frame);
        if (frame % 5 == 0) {
            const char* name = names[frame / 5 % 3];
            node.call_async("greeter", "greet", {name}, [&](perilune::CallResult result) {
                inbox.post([&answers, result = std::move(result)] {
                    ++answers;
                    std::printf("%s\n", result.ok() ? result.value().string().c_str()
                                                    : result.message.c_str());
                });
            });
        }
        inbox.run();
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }

    // Where waiting does no harm, a call is simpler.
    const perilune::CallResult greeted = node.call("greeter", "count");
    std::printf("%lld greetings\n", static_cast<long long>(greeted.value().integer()));

    // A failure says how the call ended, and why.
    const perilune::CallResult failed = node.call("scores", "add", {""});
    std::printf("%s: %s\n", perilune::outcome_name(failed.outcome), failed.message.c_str());

    node.stop();
    inbox.run();  // what had been answered by then
    std::printf("%d answers\n", answers);
    return greeted.value().integer() == 6 && answers == 6 ? 0 : 1;
}
