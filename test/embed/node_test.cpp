// Embedding: what a host program can do with a Node, and how each of it ends.
#include "perilune/node.h"

#include <gtest/gtest.h>

#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <future>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>

#include "../eventually.h"
#include "process.h"

namespace perilune {
namespace {

using std::chrono::milliseconds;
using test::eventually;
using test::Folder;

constexpr const char* kCounter = R"(
local perilune = require "perilune"
local counter, total = {}, 0
function counter.on_start(options)
  if type(options) == "table" and options.fail then error("no wish to start") end
  if type(options) == "table" and options.slow then perilune.sleep(60000) end
  total = type(options) == "table" and options.first or 0
end
function counter.add(n) total = total + n return total end
function counter.echo(...) return ... end
function counter.count(...) return select("#", ...) end
function counter.fail(value) error(value, 0) end
function counter.wait(ms) perilune.sleep(ms) return "slept" end
-- Under a name: whoever finds it knows that it began.
function counter.block(ms, name)
  perilune.name(name)
  local till = perilune.now() + ms
  while perilune.now() < till do end
end
-- Looks at nothing else while there is a service `latch`; whoever finds `held` knows that it began.
function counter.hold()
  perilune.name("held")
  while perilune.find("latch") do end
end
function counter.who() return perilune.sender(), perilune.self() end
function counter.ask(to, ...) return perilune.call(to, ...) end
function counter.try(to, ...)
  local ok, failure = pcall(perilune.call, to, ...)
  if ok then return "ok", failure end
  return failure.code, failure.message
end
function counter.leave() perilune.exit("done") end
function counter.env(name) return perilune.env(name) end
return counter
)";

constexpr const char* kStubborn = R"(
local perilune = require "perilune"
local stubborn = {}
function stubborn.on_stop() perilune.sleep(600000) end
return stubborn
)";

// Says when it starts and stops to the host's service `journal`.
constexpr const char* kChapter = R"(
local perilune = require "perilune"
local chapter, title = {}, nil
function chapter.on_start(options)
  title = options.title
  perilune.call("journal", "write", "start " .. title)
  if options.fail then error("the page is torn", 0) end
  if options.slow then perilune.sleep(60000) end
end
function chapter.on_stop() perilune.call("journal", "write", "stop " .. title) end
return chapter
)";

class NodeTest : public testing::Test {
  protected:
    NodeTest() {
        folder_.write("service/counter.lua", kCounter);
        folder_.write("service/stubborn.lua", kStubborn);
        folder_.write("service/chapter.lua", kChapter);
        folder_.write("service/broken.lua", "return {\n");
    }

    Config config() const {
        Config config;
        config.base = folder_.path();
        config.workers = 2;
        config.log.stream = "none";
        return config;
    }

    Folder folder_;
};

ServiceConfig service(const char* script, const char* name, Value options = {}) {
    ServiceConfig service;
    service.script = script;
    service.name = name;
    service.options = std::move(options);
    return service;
}

// What a lambda does as a service's command.
class Functions : public NativeService {
  public:
    using Function = std::function<Result<Values>(NativeService& self, Request& request)>;
    explicit Functions(Function function) : function_(std::move(function)) {}
    Result<Values> on_message(Request& request) override { return function_(*this, request); }

  private:
    const Function function_;
};

NativeServiceFactory make(Functions::Function function) {
    return [function] { return std::make_unique<Functions>(function); };
}

// A service that keeps what it is told.
struct Journal {
    std::mutex mutex;
    std::vector<std::string> lines;

    NativeServiceFactory factory() {
        return make([this](NativeService&, Request& request) -> Result<Values> {
            const std::lock_guard lock(mutex);
            lines.push_back(request.argument(1).string());
            return Values{};
        });
    }
    std::vector<std::string> take() {
        const std::lock_guard lock(mutex);
        return lines;
    }
};

// --- life ---

TEST_F(NodeTest, ten_nodes_in_one_process_share_nothing) {
    std::vector<std::unique_ptr<Node>> nodes;
    for (int i = 0; i < 10; ++i) {
        Config own = config();
        own.services = {service("counter", "counter", Table{{"first", i * 100}})};
        own.env = Table{{"index", i}};
        nodes.push_back(std::make_unique<Node>(std::move(own)));
        const Status status = nodes.back()->start();
        ASSERT_TRUE(status.ok()) << status.message();
    }
    for (int round = 1; round <= 3; ++round) {
        for (int i = 0; i < 10; ++i) {
            const CallResult sum = nodes[static_cast<std::size_t>(i)]->call("counter", "add", {1});
            ASSERT_TRUE(sum.ok()) << sum.message;
            EXPECT_EQ(sum.value().number(), i * 100 + round);
        }
    }
    nodes[3]->stop();
    EXPECT_EQ(nodes[3]->call("counter", "add", {1}).outcome, Outcome::cancelled);
    EXPECT_EQ(nodes[4]->call("counter", "env", {"index"}).value().number(), 4);
}

TEST_F(NodeTest, a_node_starts_once_and_stops_as_often_as_it_is_asked) {
    Node node(config());
    EXPECT_FALSE(node.running());
    ASSERT_TRUE(node.start().ok());
    EXPECT_TRUE(node.running());
    EXPECT_FALSE(node.start().ok());
    EXPECT_FALSE(node.wait(10));
    EXPECT_TRUE(node.stop());
    EXPECT_TRUE(node.stop());
    EXPECT_TRUE(node.wait(0));
    EXPECT_FALSE(node.running());
    EXPECT_FALSE(node.start().ok());
}

TEST_F(NodeTest, stopping_a_node_that_never_started_does_nothing) {
    Node node(config());
    EXPECT_TRUE(node.stop());
    EXPECT_FALSE(node.start().ok());
}

TEST_F(NodeTest, on_stopped_is_called_once_by_whoever_stops) {
    std::atomic<int> stopped{0};
    {
        Node node(config());
        node.on_stopped([&] { ++stopped; });
        ASSERT_TRUE(node.start().ok());
        std::thread stopper([&] { node.stop(); });
        EXPECT_TRUE(node.wait(10'000));
        stopper.join();
        node.stop();
    }
    EXPECT_EQ(stopped, 1);
}

TEST_F(NodeTest, a_config_that_is_wrong_starts_nothing) {
    Config wrong = config();
    wrong.workers = -1;
    Node node(wrong);
    const Status status = node.start();
    EXPECT_EQ(status.code(), StatusCode::invalid);
    EXPECT_EQ(std::string(status.message()).substr(0, 9), "workers: ");

    Config missing = config();
    missing.services = {service("conter", "c")};
    Node other(missing);
    EXPECT_NE(std::string(other.start().message()).find("Did you mean \"counter\"?"),
              std::string::npos);
}

TEST_F(NodeTest, services_start_in_order_and_stop_in_reverse) {
    Journal journal;
    Config own = config();
    own.services = {service("journal", "journal"), service("chapter", "a", Table{{"title", "a"}}),
                    service("chapter", "b", Table{{"title", "b"}}),
                    service("chapter", "c", Table{{"title", "c"}})};
    Node node(std::move(own));
    node.register_service("journal", journal.factory());
    const Status status = node.start();
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_TRUE(node.stop());
    const std::vector<std::string> expected = {"start a", "start b", "start c",
                                               "stop c",  "stop b",  "stop a"};
    EXPECT_EQ(journal.take(), expected);
}

TEST_F(NodeTest, a_service_that_does_not_start_stops_those_before_it) {
    Journal journal;
    Config own = config();
    own.services = {service("journal", "journal"), service("chapter", "a", Table{{"title", "a"}}),
                    service("chapter", "b", Table{{"title", "b"}, {"fail", true}}),
                    service("chapter", "c", Table{{"title", "c"}})};
    own.services[2].origin = "config.lua:7: services[3]";
    Node node(std::move(own));
    node.register_service("journal", journal.factory());
    const Status status = node.start();
    EXPECT_EQ(status.code(), StatusCode::unavailable);
    EXPECT_STREQ(status.message(), "config.lua:7: services[3] (b): the page is torn");
    EXPECT_FALSE(node.running());
    EXPECT_TRUE(node.wait(0));
    const std::vector<std::string> expected = {"start a", "start b", "stop a"};
    EXPECT_EQ(journal.take(), expected);
}

TEST_F(NodeTest, a_node_can_be_stopped_while_it_starts) {
    Journal journal;
    Config own = config();
    own.services = {service("journal", "journal"),
                    service("chapter", "slow", Table{{"title", "slow"}, {"slow", true}})};
    Node node(std::move(own));
    node.register_service("journal", journal.factory());
    std::thread stopper([&] {
        EXPECT_TRUE(eventually([&] { return !journal.take().empty(); }));
        node.stop();
    });
    const auto began = std::chrono::steady_clock::now();
    EXPECT_FALSE(node.start().ok());
    stopper.join();
    EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(30));
}

TEST_F(NodeTest, what_does_not_stop_in_time_is_killed) {
    Node node(config());
    ASSERT_TRUE(node.start().ok());
    ASSERT_TRUE(node.spawn("stubborn").ok());
    ASSERT_TRUE(node.spawn("counter").ok());
    const auto began = std::chrono::steady_clock::now();
    EXPECT_FALSE(node.stop(300));
    EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(5));
}

TEST_F(NodeTest, a_thread_that_never_returns_does_not_keep_a_node_from_stopping) {
    std::promise<void> inside;
    std::promise<void> release;
    Node node(config());
    node.register_service("stuck", make([&](NativeService&, Request&) -> Result<Values> {
                              inside.set_value();
                              release.get_future().wait();
                              return Values{};
                          }));
    ASSERT_TRUE(node.start().ok());
    ASSERT_TRUE(node.spawn("stuck", {}, "stuck").ok());
    ASSERT_TRUE(node.send("stuck", "stay").ok());
    inside.get_future().wait();
    EXPECT_FALSE(node.stop(100));
    EXPECT_FALSE(node.running());
    EXPECT_TRUE(node.wait(0));
    EXPECT_FALSE(node.stop(0)) << "it is still there";
    release.set_value();
    EXPECT_TRUE(node.stop(60'000));
}

TEST_F(NodeTest, a_native_service_may_use_its_node_while_that_stops) {
    std::promise<void> inside;
    std::promise<void> release;
    std::atomic<int> sent{0};
    Node node(config());
    node.register_service("user", make([&](NativeService&, Request&) -> Result<Values> {
                              inside.set_value();
                              release.get_future().wait();
                              // Whether these are still sent is the stop's to say.
                              for (int i = 0; i < 100; ++i)
                                  sent += node.send("x", "y").ok() ? 0 : 1;
                              return Values{};
                          }));
    ASSERT_TRUE(node.start().ok());
    ASSERT_TRUE(node.spawn("user", {}, "user").ok());
    ASSERT_TRUE(node.send("user", "stay").ok());
    inside.get_future().wait();
    std::thread stopper([&] { (void)node.stop(0); });
    EXPECT_TRUE(node.wait(60'000)) << "it gives the service up after some seconds";
    release.set_value();
    stopper.join();
    EXPECT_TRUE(node.stop(60'000));
    EXPECT_EQ(sent, 100);
}

TEST_F(NodeTest, a_stop_waits_for_what_a_host_thread_has_begun) {
    std::promise<void> inside;
    bool stopped_meanwhile = false;
    Node node(config());
    node.register_service("slow", [&]() -> std::unique_ptr<NativeService> {
        inside.set_value();
        stopped_meanwhile = node.wait(500);
        return std::make_unique<Functions>([](NativeService&, Request&) { return Values{}; });
    });
    ASSERT_TRUE(node.start().ok());
    std::thread spawner([&] { (void)node.spawn("slow"); });
    inside.get_future().wait();
    (void)node.stop();
    spawner.join();
    EXPECT_FALSE(stopped_meanwhile);
}

// Meant for ThreadSanitizer.
TEST_F(NodeTest, host_threads_may_spawn_stop_and_reload_while_the_node_stops) {
    for (int round = 0; round < 10; ++round) {
        Node node(config());
        ASSERT_TRUE(node.start().ok());
        std::vector<std::thread> threads;
        threads.emplace_back([&] {
            while (node.spawn("counter").ok()) {
            }
        });
        threads.emplace_back([&] {
            while (node.running()) (void)node.reload();
        });
        threads.emplace_back([&] {
            while (node.running()) (void)node.stop_service("nobody");
        });
        while (node.stats().table().empty()) std::this_thread::yield();
        (void)node.stop(1000);
        for (std::thread& thread : threads) thread.join();
    }
}

TEST_F(NodeTest, the_destructor_stops) {
    Journal journal;
    {
        Config own = config();
        own.services = {service("journal", "journal"),
                        service("chapter", "a", Table{{"title", "a"}})};
        Node node(std::move(own));
        node.register_service("journal", journal.factory());
        ASSERT_TRUE(node.start().ok());
    }
    EXPECT_EQ(journal.take().back(), "stop a");
}

// --- spawn ---

TEST_F(NodeTest, spawn_ends_in_each_of_its_ways) {
    Node node(config());
    ASSERT_TRUE(node.start().ok());
    const Result<std::uint64_t> first = node.spawn("counter", Table{{"first", 7}}, "counter");
    ASSERT_TRUE(first.ok()) << first.status().message();
    EXPECT_EQ(node.find("counter"), first.value());
    EXPECT_EQ(node.call(first.value(), "add", {1}).value().number(), 8);

    EXPECT_EQ(node.spawn("counter", {}, "counter").status().code(), StatusCode::exists);
    EXPECT_EQ(node.spawn("nothing").status().code(), StatusCode::not_found);
    EXPECT_EQ(node.spawn("broken").status().code(), StatusCode::invalid);
    EXPECT_NE(std::string(node.spawn("broken").status().message()).find("broken.lua:"),
              std::string::npos);
    const Status failed = node.spawn("counter", Table{{"fail", true}}, "f").status();
    EXPECT_EQ(failed.code(), StatusCode::unavailable);
    EXPECT_NE(std::string(failed.message()).find("no wish to start"), std::string::npos);
    EXPECT_EQ(node.find("f"), 0u);
    EXPECT_EQ(node.spawn("counter", Table{{"slow", true}}, "s", 50).status().code(),
              StatusCode::timeout);

    EXPECT_TRUE(node.stop_service("counter"));
    EXPECT_FALSE(node.stop_service("counter"));
    EXPECT_EQ(node.find("counter"), 0u);
}

TEST_F(NodeTest, a_light_service_is_spawned_into_its_group) {
    Node node(config());
    ASSERT_TRUE(node.start().ok());
    ServiceConfig light = service("counter", "light");
    light.group = "g";
    const Result<std::uint64_t> handle = node.spawn(light);
    ASSERT_TRUE(handle.ok()) << handle.status().message();
    EXPECT_EQ(node.call("light", "add", {2}).value().number(), 2);
}

// --- messages ---

TEST_F(NodeTest, values_travel_both_ways_unchanged) {
    Node node(config());
    ASSERT_TRUE(node.start().ok());
    ASSERT_TRUE(node.spawn("counter", {}, "counter").ok());
    const Values values = {nullptr,
                           true,
                           -1.5,
                           9007199254740992.0,
                           std::string("a\0b", 3),
                           Value::array({1, "two", Table{{"three", 3}}}),
                           Table{{"name", "x"}, {1, false}},
                           nullptr};
    const CallResult result = node.call("counter", "echo", values);
    ASSERT_TRUE(result.ok()) << result.message;
    EXPECT_EQ(result.values, values);
    EXPECT_EQ(node.call("counter", "count", values).value().number(), 8);
    EXPECT_TRUE(result.value(9).is_nil());
}

TEST_F(NodeTest, a_call_ends_ok_error_timeout_dead_overloaded_or_cancelled) {
    Config own = config();
    own.mailbox.messages = 16;
    own.services = {service("counter", "counter"), service("counter", "busy")};
    Node node(std::move(own));
    ASSERT_TRUE(node.start().ok());

    EXPECT_EQ(node.call("counter", "add", {5}).value().number(), 5);

    const CallResult error = node.call("counter", "fail", {"ouch"});
    EXPECT_EQ(error.outcome, Outcome::error);
    EXPECT_EQ(error.message, "ouch");
    EXPECT_NE(error.traceback.find("counter.lua:"), std::string::npos) << error.traceback;
    const CallResult table = node.call("counter", "fail", {Table{{"code", 7}}});
    EXPECT_EQ(table.error["code"].number(), 7);
    const CallResult unknown = node.call("counter", "nothing");
    EXPECT_EQ(unknown.outcome, Outcome::error);
    EXPECT_NE(unknown.message.find("has no command \"nothing\""), std::string::npos);

    const auto began = std::chrono::steady_clock::now();
    EXPECT_EQ(node.call("counter", "wait", {5000}, 50).outcome, Outcome::timeout);
    EXPECT_LT(std::chrono::steady_clock::now() - began, milliseconds(5000));

    EXPECT_EQ(node.call("nobody", "add").outcome, Outcome::dead);
    EXPECT_EQ(node.call(123456789, "add").outcome, Outcome::dead);
    const Result<std::uint64_t> gone = node.spawn("counter");
    ASSERT_TRUE(gone.ok());
    EXPECT_TRUE(node.call(gone.value(), "leave").ok());
    EXPECT_EQ(node.call(gone.value(), "wait", {1}).outcome, Outcome::dead);

    ASSERT_TRUE(node.spawn("counter", {}, "latch").ok());
    ASSERT_TRUE(node.send("busy", "hold").ok());
    ASSERT_TRUE(eventually([&] { return node.find("held") != 0; }));
    Status status;
    for (int i = 0; i < 40 && status.ok(); ++i) status = node.send("busy", "add", {1});
    EXPECT_EQ(status.code(), StatusCode::overloaded);
    EXPECT_EQ(node.call("busy", "add", {1}).outcome, Outcome::overloaded);
    EXPECT_TRUE(node.stop_service("latch"));
    EXPECT_EQ(node.send("nobody", "add").code(), StatusCode::dead);

    std::future<CallResult> pending =
        std::async(std::launch::async, [&] { return node.call("counter", "wait", {60'000}, 0); });
    std::this_thread::sleep_for(milliseconds(100));
    node.stop();
    const Outcome outcome = pending.get().outcome;
    EXPECT_TRUE(outcome == Outcome::cancelled || outcome == Outcome::dead);
    EXPECT_EQ(node.call("counter", "add", {1}).outcome, Outcome::cancelled);
    EXPECT_FALSE(node.send("counter", "add", {1}).ok());
    EXPECT_EQ(node.find("counter"), 0u);
}

TEST_F(NodeTest, call_async_tells_its_end_once_and_may_be_nested) {
    Node node(config());
    ASSERT_TRUE(node.start().ok());
    ASSERT_TRUE(node.spawn("counter", {}, "counter").ok());

    std::promise<CallResult> second;
    CallResult inside;
    node.call_async("counter", "add", {1}, [&](const CallResult& first) {
        // On a worker: it may send and call_async, but not wait.
        EXPECT_EQ(first.value().number(), 1);
        inside = node.call("counter", "add", {1});
        EXPECT_FALSE(node.stop());
        EXPECT_FALSE(node.spawn("counter").ok());
        node.call_async("counter", "add", {10},
                        [&](CallResult result) { second.set_value(std::move(result)); });
    });
    EXPECT_EQ(second.get_future().get().value().number(), 11);
    EXPECT_EQ(inside.outcome, Outcome::cancelled);
    EXPECT_NE(inside.message.find("call_async"), std::string::npos);

    std::promise<Outcome> dead;
    node.call_async("nobody", "add", {}, [&](const CallResult& r) { dead.set_value(r.outcome); });
    EXPECT_EQ(dead.get_future().get(), Outcome::dead);

    std::promise<Outcome> late;
    node.call_async(
        "counter", "wait", {60'000}, [&](const CallResult& r) { late.set_value(r.outcome); }, 30);
    EXPECT_EQ(late.get_future().get(), Outcome::timeout);

    std::promise<Outcome> never;
    node.call_async(
        "counter", "wait", {60'000}, [&](const CallResult& r) { never.set_value(r.outcome); }, 0);
    node.stop();
    const Outcome outcome = never.get_future().get();
    EXPECT_TRUE(outcome == Outcome::cancelled || outcome == Outcome::dead);
}

TEST_F(NodeTest, what_the_end_of_a_call_throws_is_logged_and_nothing_more) {
    Node node(config());
    ASSERT_TRUE(node.start().ok());
    ASSERT_TRUE(node.spawn("counter", {}, "counter").ok());
    std::atomic<int> told{0};
    for (const bool number : {true, false}) {
        node.call_async("counter", "add", {1}, [&, number](const CallResult&) {
            ++told;
            if (number) throw 42;
            throw std::runtime_error("thrown");
        });
    }
    EXPECT_EQ(node.call("counter", "add", {0}).value().number(), 2);
    node.call_async("counter", "wait", {60'000}, [&](const CallResult&) {
        ++told;
        throw 42;
    });
    (void)node.stop();
    EXPECT_EQ(told, 3);
}

TEST_F(NodeTest, host_threads_call_at_once_and_lose_nothing) {
    Node node(config());
    ASSERT_TRUE(node.start().ok());
    ASSERT_TRUE(node.spawn("counter", {}, "counter").ok());
    constexpr int kThreads = 4;
    constexpr int kCalls = 500;
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i) {
        threads.emplace_back([&] {
            for (int n = 0; n < kCalls; ++n) ASSERT_TRUE(node.call("counter", "add", {1}).ok());
        });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(node.call("counter", "add", {0}).value().number(), kThreads * kCalls);
}

TEST_F(NodeTest, a_host_call_returns_in_time_while_all_workers_are_stuck) {
    Config own = config();
    own.spare_workers = 0;
    Node node(std::move(own));
    ASSERT_TRUE(node.start().ok());
    for (int i = 0; i < 2; ++i) {
        const Result<std::uint64_t> handle = node.spawn("counter");
        ASSERT_TRUE(handle.ok());
        const std::string name = "blocked " + std::to_string(i);
        ASSERT_TRUE(node.send(handle.value(), "block", {3000, name}).ok());
        ASSERT_TRUE(eventually([&] { return node.find(name) != 0; }));
    }
    const Result<std::uint64_t> other = node.spawn("counter", {}, "other", 100);
    EXPECT_EQ(other.status().code(), StatusCode::timeout);
    const auto began = std::chrono::steady_clock::now();
    EXPECT_FALSE(node.call("nobody", "add", {}, 100).ok());
    EXPECT_LT(std::chrono::steady_clock::now() - began, milliseconds(2000));
}

TEST_F(NodeTest, arguments_that_cannot_be_sent_are_refused) {
    Node node(config());
    ASSERT_TRUE(node.start().ok());
    ASSERT_TRUE(node.spawn("counter", {}, "counter").ok());
    Value deep;
    for (int i = 0; i < 100; ++i) deep = Value::array({deep});
    EXPECT_EQ(node.send("counter", "echo", {deep}).code(), StatusCode::too_large);
    EXPECT_EQ(node.call("counter", "echo", {deep}).outcome, Outcome::error);
}

TEST_F(NodeTest, the_sender_of_a_host_send_is_nobody) {
    Node node(config());
    ASSERT_TRUE(node.start().ok());
    const Result<std::uint64_t> handle = node.spawn("counter", {}, "counter");
    ASSERT_TRUE(handle.ok());
    EXPECT_EQ(node.call("counter", "who").value(2).number(), static_cast<double>(handle.value()));
}

TEST_F(NodeTest, stats_count_services_and_messages) {
    Node node(config());
    ASSERT_TRUE(node.start().ok());
    ASSERT_TRUE(node.spawn("counter", {}, "counter").ok());
    const Value stats = node.stats();
    EXPECT_GE(stats["services"].integer(), 1);
    EXPECT_GT(stats["counters"]["messages"].integer(), 0);
    EXPECT_EQ(stats["counters"]["net_open"].integer(-1), 0);
    std::set<std::string> names;
    for (const auto& [name, value] : stats["counters"].table()) {
        EXPECT_TRUE(names.insert(name.string()).second) << name.string() << " is there twice";
    }
    EXPECT_EQ(static_cast<std::uint64_t>(stats["names"]["counter"].integer()),
              node.find("counter"));
}

TEST_F(NodeTest, reload_joins_a_new_script_and_says_what_it_refused) {
    Node node(config());
    ASSERT_TRUE(node.start().ok());
    ASSERT_TRUE(node.spawn("counter", {}, "counter").ok());
    ASSERT_TRUE(node.spawn("counter").ok());
    EXPECT_EQ(node.call("counter", "add", {1}).value().number(), 1);
    EXPECT_EQ(node.reload().value().services, 0);
    std::string text = kCounter;
    const std::string body = "total = total + n return total";
    text.replace(text.find(body), body.size(), "total = total + 100 * n return total");
    folder_.write("service/counter.lua", text);
    const Result<ReloadResult> reloaded = node.reload();
    ASSERT_TRUE(reloaded.ok()) << reloaded.status().message();
    EXPECT_EQ(reloaded.value().services, 2);
    EXPECT_TRUE(reloaded.value().problems.empty());
    EXPECT_EQ(node.call("counter", "add", {1}).value().number(), 101);

    folder_.write("service/counter.lua", "return {");
    const Result<ReloadResult> refused = node.reload("counter");
    ASSERT_TRUE(refused.ok());
    EXPECT_EQ(refused.value().services, 0);
    ASSERT_EQ(refused.value().problems.size(), 1u);
    EXPECT_NE(refused.value().problems[0].find("counter.lua:1: "), std::string::npos);
    EXPECT_EQ(node.call("counter", "add", {1}).value().number(), 201);
}

// --- native services ---

TEST_F(NodeTest, lua_and_native_services_call_each_other) {
    Node node(config());
    node.register_service("adder", make([](NativeService&, Request& request) -> Result<Values> {
                              if (request.command() != "add") return request.unknown();
                              if (request.argument(1).is_nil()) {
                                  return Status::error(StatusCode::invalid, "add what?");
                              }
                              return Values{request.argument(1).number() + 1, "more"};
                          }));
    ASSERT_TRUE(node.start().ok());
    ASSERT_TRUE(node.spawn("adder", {}, "adder").ok());
    ASSERT_TRUE(node.spawn("counter", {}, "counter").ok());
    const CallResult through = node.call("counter", "ask", {"adder", "add", 41});
    ASSERT_TRUE(through.ok()) << through.message;
    EXPECT_EQ(through.value(1).number(), 42);
    EXPECT_EQ(through.value(2).string(), "more");
    const CallResult raised = node.call("counter", "try", {"adder", "add"});
    EXPECT_EQ(raised.value(1).string(), "error");
    EXPECT_EQ(raised.value(2).string(), "add what?");
    const CallResult unknown = node.call("counter", "try", {"adder", "subtract"});
    EXPECT_EQ(unknown.value(2).string(), "adder has no command \"subtract\"");
    EXPECT_EQ(node.call("adder", "on_start").outcome, Outcome::error);
}

// Uses everything that a native service has.
class Busy : public NativeService {
  public:
    Status on_start(const Value& options) override {
        if (options["fail"].boolean()) return Status::error(StatusCode::invalid, "not today");
        if (options["throw"].boolean()) throw std::runtime_error("thrown at start");
        monitor(static_cast<std::uint64_t>(options["watch"].integer()));
        every(5, [this] { ++ticks_; });
        const std::uint64_t cancelled = timeout(1, [this] { ticks_ += 1'000'000; });
        EXPECT_TRUE(cancel(cancelled));
        EXPECT_FALSE(cancel(cancelled));
        timeout(20, [this] { fired_ = true; });
        return {};
    }

    Result<Values> on_message(Request& request) override {
        const std::string_view command = request.command();
        if (command == "ticks") return Values{ticks_, fired_};
        if (command == "downs") return Values{down_, reason_, orderly_};
        if (command == "throw") throw std::runtime_error("thrown");
        if (command == "leave") {
            exit("had enough");
            return Values{"bye"};
        }
        if (command == "throw number") throw 42;
        if (command == "throw in timer") {
            timeout(1, [] { throw 42; });
            return Values{};
        }
        if (command == "sender") return Values{request.sender()};
        if (command == "later") {
            // Answered from a timer.
            auto promise = std::make_shared<Promise>(request.defer());
            timeout(10, [promise] { promise->resolve({"later"}); });
        } else if (command == "elsewhere") {
            // Answered from a thread of the program.
            std::thread([promise = request.defer()]() mutable {
                std::this_thread::sleep_for(milliseconds(10));
                promise.resolve({"elsewhere"});
                promise.fail("only the first counts");
            }).detach();
        } else if (command == "dropped") {
            (void)request.defer();
        } else if (command == "refused") {
            request.defer().fail("refused later");
        } else if (command == "relay") {
            auto promise = std::make_shared<Promise>(request.defer());
            call(
                request.argument(1).string(), request.argument(2).string(), {request.argument(3)},
                [promise](const CallResult& result) {
                    promise->resolve(
                        {outcome_name(result.outcome), result.value(), result.message});
                },
                50);
        } else {
            return request.unknown();
        }
        return Values{"ignored"};
    }

    void on_down(std::uint64_t handle, std::string_view reason, bool orderly) override {
        down_ = static_cast<double>(handle);
        reason_ = reason;
        orderly_ = orderly;
    }

  private:
    int ticks_ = 0;
    bool fired_ = false;
    double down_ = 0;
    std::string reason_;
    bool orderly_ = false;
};

class BusyTest : public NodeTest {
  protected:
    BusyTest() : node_(config()) {
        node_.register_service("busy", [] { return std::make_unique<Busy>(); });
        EXPECT_TRUE(node_.start().ok());
        const Result<std::uint64_t> counter = node_.spawn("counter", {}, "counter");
        EXPECT_TRUE(counter.ok());
        counter_ = counter.value();
        EXPECT_TRUE(node_.spawn("busy", Table{{"watch", counter_}}, "busy").ok());
    }

    Node node_;
    std::uint64_t counter_ = 0;
};

TEST_F(BusyTest, a_promise_is_kept_from_anywhere_or_the_caller_is_told) {
    EXPECT_EQ(node_.call("busy", "later").value().string(), "later");
    EXPECT_EQ(node_.call("busy", "elsewhere").value().string(), "elsewhere");
    EXPECT_EQ(node_.call("counter", "ask", {"busy", "elsewhere"}).value().string(), "elsewhere");
    const CallResult dropped = node_.call("busy", "dropped");
    EXPECT_EQ(dropped.outcome, Outcome::error);
    EXPECT_NE(dropped.message.find("without an answer"), std::string::npos);
    EXPECT_EQ(node_.call("busy", "refused").message, "refused later");
}

TEST_F(BusyTest, a_promise_may_outlive_its_node) {
    std::promise<Promise> kept;
    {
        Node node(config());
        node.register_service("keeper",
                              make([&](NativeService&, Request& request) -> Result<Values> {
                                  kept.set_value(request.defer());
                                  return Values{};
                              }));
        ASSERT_TRUE(node.start().ok());
        ASSERT_TRUE(node.spawn("keeper", {}, "keeper").ok());
        std::promise<Outcome> ended;
        node.call_async("keeper", "keep", {},
                        [&](const CallResult& result) { ended.set_value(result.outcome); });
        Promise promise = kept.get_future().get();
        node.stop();
        EXPECT_EQ(ended.get_future().get(), Outcome::cancelled);
        promise.resolve({1});
        kept = {};
        kept.set_value(std::move(promise));
    }
    kept.get_future().get().resolve({2});
}

TEST_F(BusyTest, a_native_call_ends_like_any_other) {
    const auto relay = [&](const char* to, const char* command, const Value& argument) {
        return node_.call("busy", "relay", {to, command, argument});
    };
    EXPECT_EQ(relay("counter", "add", 3).value(2).number(), 3);
    EXPECT_EQ(relay("counter", "fail", "x").value(1).string(), "error");
    EXPECT_EQ(relay("counter", "fail", "x").value(3).string(), "x");
    EXPECT_EQ(relay("counter", "wait", 60'000).value(1).string(), "timeout");
    EXPECT_EQ(relay("nobody", "add", 1).value(1).string(), "dead");
}

TEST_F(BusyTest, timers_fire_and_can_be_cancelled) {
    CallResult result;
    EXPECT_TRUE(eventually([&] {
        result = node_.call("busy", "ticks");
        return result.value(1).number() >= 3 && result.value(2).boolean();
    }));
    EXPECT_LT(result.value(1).number(), 1'000'000);
    EXPECT_TRUE(result.value(2).boolean());
}

TEST_F(BusyTest, the_death_of_a_monitored_service_is_told_once) {
    EXPECT_TRUE(node_.stop_service("counter"));
    for (int i = 0; i < 100 && node_.call("busy", "downs").value(1).number() == 0; ++i) {
        std::this_thread::sleep_for(milliseconds(5));
    }
    const CallResult downs = node_.call("busy", "downs");
    EXPECT_EQ(downs.value(1).number(), static_cast<double>(counter_));
    EXPECT_EQ(downs.value(2).string(), "stop");
    EXPECT_TRUE(downs.value(3).boolean());
}

TEST_F(BusyTest, what_a_native_service_throws_is_its_error) {
    const CallResult thrown = node_.call("busy", "throw");
    EXPECT_EQ(thrown.outcome, Outcome::error);
    EXPECT_EQ(thrown.message, "thrown");
    EXPECT_TRUE(node_.call("busy", "ticks").ok());
    const CallResult number = node_.call("busy", "throw number");
    EXPECT_EQ(number.outcome, Outcome::error);
    EXPECT_EQ(number.message, "an exception that is no std::exception");
    EXPECT_TRUE(node_.call("busy", "throw in timer").ok());
    EXPECT_EQ(node_.call("busy", "later").value().string(), "later");
    EXPECT_STREQ(node_.spawn("busy", Table{{"throw", true}}).status().message(), "thrown at start");
    EXPECT_STREQ(node_.spawn("busy", Table{{"fail", true}}, "x").status().message(), "not today");
    EXPECT_EQ(node_.find("x"), 0u);
    EXPECT_EQ(node_.spawn("busy", {}, "busy").status().code(), StatusCode::exists);
}

TEST_F(BusyTest, a_native_service_is_monitored_linked_killed_and_inspected_like_others) {
    folder_.write("service/watcher.lua", R"(
        local perilune = require "perilune"
        local watcher, seen = {}, {}
        function watcher.watch(to) return perilune.monitor(to) end
        function watcher.bind(to) perilune.link(to) end
        function watcher.on_down(handle, reason, orderly) seen = { handle, reason, orderly } end
        function watcher.seen() return unpack(seen) end
        function watcher.kill(to) return perilune.kill(to) end
        function watcher.stats(to) return perilune.stats(to) end
        return watcher)");
    ASSERT_TRUE(node_.spawn("watcher", {}, "watcher").ok());
    const Result<std::uint64_t> other = node_.spawn("busy", {}, "other");
    ASSERT_TRUE(other.ok());
    EXPECT_EQ(node_.call("watcher", "stats", {"other"}).value()["script"].string(), "busy");
    EXPECT_TRUE(node_.call("watcher", "watch", {"other"}).value().boolean());
    EXPECT_TRUE(node_.call("watcher", "kill", {"other"}).value().boolean());
    for (int i = 0; i < 100 && node_.call("watcher", "seen").values.empty(); ++i) {
        std::this_thread::sleep_for(milliseconds(5));
    }
    const CallResult seen = node_.call("watcher", "seen");
    EXPECT_EQ(static_cast<std::uint64_t>(seen.value(1).integer()), other.value());
    EXPECT_EQ(seen.value(2).string(), "kill");
    EXPECT_FALSE(seen.value(3).boolean(true));

    const Result<std::uint64_t> bound = node_.spawn("busy", {}, "bound");
    ASSERT_TRUE(bound.ok());
    EXPECT_TRUE(node_.call("watcher", "bind", {"bound"}).ok());
    EXPECT_TRUE(node_.send("counter", "ask", {"watcher", "kill", "watcher"}).ok());
    for (int i = 0; i < 200 && node_.find("bound") != 0; ++i) {
        std::this_thread::sleep_for(milliseconds(5));
    }
    EXPECT_EQ(node_.find("bound"), 0u);
}

TEST_F(BusyTest, a_native_service_may_leave) {
    EXPECT_EQ(node_.call("busy", "leave").value().string(), "bye");
    EXPECT_EQ(node_.call("busy", "ticks").outcome, Outcome::dead);
    EXPECT_EQ(node_.find("busy"), 0u);
}

// --- native modules ---

class ModuleTest : public NodeTest {
  protected:
    ModuleTest() : node_(config()) {
        folder_.write("service/user.lua", R"(
            local tools = require "host.tools"
            local user = {}
            function user.run(name, ...) return tools[name](...) end
            function user.try(name, ...)
              local ok, message = pcall(tools[name], ...)
              return ok, message
            end
            function user.self() return require "perilune".self(), tools.service() end
            return user
        )");
        node_.register_module(
            "host.tools",
            {
                {"clamp",
                 [](Call& call) -> Values {
                     const double value = call.number(1);
                     const double low = call.number(2);
                     return {std::min(std::max(value, low), call.number(3))};
                 }},
                {"kinds",
                 [](Call& call) -> Values {
                     return {call.boolean(1),
                             call.integer(2, 0, 9),
                             call.string(3),
                             call.table(4),
                             call.value(5),
                             call.integer_or(6, 77),
                             call.string_or(7, "none"),
                             call.count()};
                 }},
                {"fail", [](Call& call) -> Values { call.error("failed on purpose"); }},
                {"refuse", [](Call& call) -> Values { call.argument_error(2, "not that one"); }},
                {"throws", [](Call&) -> Values { throw std::runtime_error("thrown in a module"); }},
                {"service", [](Call& call) -> Values { return {call.service()}; }},
                {"unwinds",
                 [this](Call& call) -> Values {
                     const std::shared_ptr<int> held(new int(1), [this](const int* value) {
                         ++released_;
                         delete value;
                     });
                     return {call.number(1)};
                 }},
                {"nothing",
                 [](Call&) -> Values {
                     return {nullptr, "not there", "not_found"};
                 }},
            });
        const Status status = node_.start();
        EXPECT_TRUE(status.ok()) << status.message();
        EXPECT_TRUE(node_.spawn("user", {}, "user").ok());
    }

    std::string failure(Values arguments) {
        const CallResult result = node_.call("user", "try", std::move(arguments));
        EXPECT_FALSE(result.value(1).boolean(true));
        return result.value(2).string();
    }

    std::atomic<int> released_{0};
    Node node_;
};

TEST_F(ModuleTest, functions_take_and_return_values) {
    EXPECT_EQ(node_.call("user", "run", {"clamp", 7, 1, 5}).value().number(), 5);
    const Value table = Table{{"a", Value::array({1, 2})}};
    const CallResult kinds =
        node_.call("user", "run", {"kinds", true, 9, std::string("a\0b", 3), table, nullptr});
    ASSERT_TRUE(kinds.ok()) << kinds.message;
    EXPECT_TRUE(kinds.value(1).boolean());
    EXPECT_EQ(kinds.value(2).number(), 9);
    EXPECT_EQ(kinds.value(3).string(), std::string("a\0b", 3));
    EXPECT_EQ(kinds.value(4), table);
    EXPECT_TRUE(kinds.value(5).is_nil());
    EXPECT_EQ(kinds.value(6).number(), 77);
    EXPECT_EQ(kinds.value(7).string(), "none");
    const CallResult nothing = node_.call("user", "run", {"nothing"});
    EXPECT_TRUE(nothing.value(1).is_nil());
    EXPECT_EQ(nothing.value(3).string(), "not_found");
    const CallResult self = node_.call("user", "self");
    EXPECT_EQ(self.value(1), self.value(2));
}

TEST_F(ModuleTest, a_wrong_argument_is_named) {
    EXPECT_EQ(failure({"clamp", 1, "2", 3}),
              "bad argument #2 to '?' (number expected, got string)");
    EXPECT_EQ(failure({"clamp", 1}), "bad argument #2 to '?' (number expected, got no value)");
    EXPECT_EQ(failure({"kinds", 1}), "bad argument #1 to '?' (boolean expected, got number)");
    EXPECT_EQ(failure({"kinds", true, 1.5}), "bad argument #2 to '?' (an integer expected)");
    EXPECT_EQ(failure({"kinds", true, 10}),
              "bad argument #2 to '?' (an integer from 0 to 9 expected, got 10)");
    EXPECT_EQ(failure({"kinds", true, 1, 2}),
              "bad argument #3 to '?' (string expected, got number)");
    EXPECT_EQ(failure({"kinds", true, 1, "x", 2}),
              "bad argument #4 to '?' (table expected, got number)");
    EXPECT_EQ(failure({"refuse"}), "bad argument #2 to '?' (not that one)");
    // Called by its name, the message has it.
    const CallResult named = node_.call("user", "run", {"clamp", "x"});
    EXPECT_NE(named.message.find("bad argument #1 to"), std::string::npos) << named.message;
}

TEST_F(ModuleTest, errors_and_exceptions_are_raised_and_the_stack_is_unwound) {
    EXPECT_NE(failure({"fail"}).find("failed on purpose"), std::string::npos);
    EXPECT_NE(failure({"throws"}).find("thrown in a module"), std::string::npos);
    EXPECT_NE(failure({"unwinds", "x"}).find("bad argument #1"), std::string::npos);
    EXPECT_EQ(released_, 1);
    for (int i = 0; i < 100; ++i) (void)failure({"throws"});
    EXPECT_EQ(node_.call("user", "run", {"unwinds", 3}).value().number(), 3);
    EXPECT_EQ(released_, 2);
}

// --- seeded ---

TEST_F(NodeTest, a_seeded_node_runs_in_virtual_time) {
    Config own = config();
    own.seed = 7;
    Node node(std::move(own));
    const Status status = node.start();
    ASSERT_TRUE(status.ok()) << status.message();
    ASSERT_TRUE(node.spawn("counter", {}, "counter").ok());
    const auto began = std::chrono::steady_clock::now();
    EXPECT_EQ(node.call("counter", "wait", {3'600'000}, 0).value().string(), "slept");
    EXPECT_EQ(node.call("counter", "try", {"counter", "wait", 60'000}, 0).value().string(),
              "timeout");
    EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(10));
    EXPECT_TRUE(node.stop());
}

#if !defined(PERILUNE_ASAN) && !defined(PERILUNE_TSAN)  // which reserve terabytes
// Ends the process: with 0 when the node says that it is unavailable.
[[noreturn]] void start_without_addresses(const Config& config) {
    rlim_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    rlimit limit{};
    limit.rlim_cur = limit.rlim_max = pages * 4096 + (200u << 20);  // 256 MB is the least tried
    setrlimit(RLIMIT_AS, &limit);
    Node node(config);
    const Status status = node.start();
    std::fprintf(stderr, "%s\n", status.message());
    _exit(status.code() == StatusCode::unavailable ? 0 : 1);
}

TEST_F(NodeTest, start_fails_when_there_are_no_addresses_for_lua) {
    testing::FLAGS_gtest_death_test_style = "threadsafe";
    EXPECT_EXIT(start_without_addresses(config()), testing::ExitedWithCode(0),
                "reserve .* of addresses");
}
#endif

}  // namespace
}  // namespace perilune
