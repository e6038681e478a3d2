// The program as its user meets it: start, signals, exit codes. Promise 33 in small.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <memory>

#include "process.h"

namespace perilune::test {
namespace {

// A service that is busy from its start, and says goodbye late if it is told to.
constexpr const char* kLoad = R"(
local perilune = require "perilune"
local load, wrote = {}, 0
function load.on_start(options)
  load.options = options
  for i = 1, 20 do
    perilune.fork(function()
      while true do
        perilune.call("store", "write", i)
        wrote = wrote + 1
      end
    end)
  end
end
function load.on_stop()
  perilune.log.info("load stops")
  perilune.sleep(load.options.goodbye_ms)
end
return load
)";

constexpr const char* kStore = R"(
local perilune = require "perilune"
local store, count = {}, 0
function store.write()
  count = count + 1
  if count == 101 then perilune.log.info("store has many writes") end
  return count
end
function store.on_stop()
  perilune.log.info("store stops after %s", count > 100 and "many writes" or "few writes")
end
return store
)";

constexpr const char* kListener = R"(
local perilune = require "perilune"
local socket = require "perilune.socket"
local listener = {}
function listener.on_start(options)
  assert(socket.listen { host = "127.0.0.1", port = options.port })
end
return listener
)";

class ProgramTest : public testing::Test {
  protected:
    void SetUp() override {
        if (node_program().empty()) GTEST_SKIP() << "the program is not built";
        folder_.write("service/load.lua", kLoad);
        folder_.write("service/store.lua", kStore);
        folder_.write("service/listener.lua", kListener);
    }

    Process run(const std::vector<std::string>& words) const {
        std::vector<std::string> command = {node_program()};
        command.insert(command.end(), words.begin(), words.end());
        return {folder_.path(), command};
    }
    void write_load(int goodbye_ms, const std::string& more = {}) const {
        folder_.write("config.lua",
                      "return { workers = 2, services = { { script = \"store\" }, { script = "
                      "\"load\", options = { goodbye_ms = " +
                          std::to_string(goodbye_ms) + " } } }, " + more + " }");
    }

    Folder folder_;
};

TEST_F(ProgramTest, sigterm_under_load_stops_in_order_and_exits_with_0) {
    write_load(10);
    for (const int number : {SIGTERM, SIGINT}) {
        Process node = run({});
        ASSERT_TRUE(node.printed("runs 2 services")) << node.output();
        ASSERT_TRUE(node.printed("store has many writes")) << node.output();
        node.signal(number);
        EXPECT_EQ(node.wait(20'000), 0) << node.output();
        const std::size_t load = node.output().find("load stops");
        const std::size_t store = node.output().find("store stops after many writes");
        EXPECT_NE(load, std::string::npos) << node.output();
        EXPECT_NE(store, std::string::npos) << node.output();
        EXPECT_LT(load, store) << node.output();
    }
}

// A client of the gateway, in bytes.
class Player {
  public:
    explicit Player(std::uint16_t port) {
        descriptor_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        const timeval limit{20, 0};
        ::setsockopt(descriptor_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(port);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        connected_ =
            ::connect(descriptor_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
    }
    ~Player() { ::close(descriptor_); }
    Player(const Player&) = delete;
    Player& operator=(const Player&) = delete;

    bool connected() const { return connected_; }
    // A protocol.ping in JSON; true when something has come back.
    bool ping() {
        const std::string header("\x18\0\0\0\2\0\0\0\0\0\1\0\x0a\0", 14);
        const std::string packet = header + R"({"0":null})";
        if (::send(descriptor_, packet.data(), packet.size(), MSG_NOSIGNAL) < 0) return false;
        char data[256];
        return ::recv(descriptor_, data, sizeof data, 0) > 0;
    }
    // What comes until the other side closes; "reset" or "timeout" behind it where it doesn't.
    std::string read_all() {
        std::string all;
        char data[4096];
        for (;;) {
            const ssize_t size = ::recv(descriptor_, data, sizeof data, 0);
            if (size == 0) return all;
            if (size < 0) return all + (errno == ECONNRESET ? "reset" : "timeout");
            all.append(data, static_cast<std::size_t>(size));
        }
    }

  private:
    int descriptor_ = -1;
    bool connected_ = false;
};

TEST_F(ProgramTest, sigterm_tells_the_clients_and_accepts_no_more) {
    // The load takes a while to say goodbye, and by then nobody gets in any more.
    folder_.write("config.lua", R"(return { workers = 2, services = { { script = "store" },
        { script = "load", options = { goodbye_ms = 3000 } }, { script = "dbproxy" },
        { script = "auth" }, { script = "talkroom" },
        { script = "gateway", options = { listen = { { port = 0 } } } } } })");
    Process node = run({});
    ASSERT_TRUE(node.printed("runs 6 services")) << node.output();
    const std::string text = "listens on 127.0.0.1:";
    const std::size_t at = node.output().find(text);
    ASSERT_NE(at, std::string::npos) << node.output();
    const auto port =
        static_cast<std::uint16_t>(std::stoi(node.output().substr(at + text.size(), 5)));
    std::vector<std::unique_ptr<Player>> players;
    for (int i = 0; i < 20; ++i) {
        players.push_back(std::make_unique<Player>(port));
        ASSERT_TRUE(players.back()->ping());
    }
    node.signal(SIGTERM);
    for (const auto& player : players) {
        const std::string last = player->read_all();
        EXPECT_NE(last.find("shutdown"), std::string::npos) << last;
        EXPECT_NE(last.find("the server stops"), std::string::npos) << last;
        EXPECT_EQ(last.find("timeout"), std::string::npos);
        EXPECT_EQ(last.find("reset"), std::string::npos);
    }
    ASSERT_TRUE(node.printed("load stops")) << node.output();
    EXPECT_FALSE(Player(port).connected());
    EXPECT_EQ(node.wait(20'000), 0) << node.output();
}

TEST_F(ProgramTest, a_second_sigterm_ends_the_process_at_once) {
    write_load(60'000);
    Process node = run({});
    ASSERT_TRUE(node.printed("runs 2 services")) << node.output();
    node.signal(SIGTERM);
    ASSERT_TRUE(node.printed("load stops")) << node.output();
    const auto began = std::chrono::steady_clock::now();
    node.signal(SIGTERM);
    EXPECT_EQ(node.wait(), 128 + SIGTERM) << node.output();
    EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(30));
}

TEST_F(ProgramTest, what_does_not_stop_within_the_limit_is_killed_and_the_exit_code_says_so) {
    write_load(60'000, "stop_limit_ms = 500");
    Process node = run({"config.lua"});
    ASSERT_TRUE(node.printed("runs 2 services")) << node.output();
    node.signal(SIGTERM);
    EXPECT_EQ(node.wait(10'000), 1) << node.output();
    EXPECT_NE(node.output().find("did not stop in time"), std::string::npos) << node.output();
}

TEST_F(ProgramTest, a_node_that_is_starting_can_be_stopped) {
    folder_.write("service/slow.lua", R"(
        local perilune = require "perilune"
        return { on_start = function() perilune.log.info("slow starts") perilune.sleep(60000) end }
    )");
    folder_.write("config.lua", "return { services = { { script = \"slow\" } } }");
    Process node = run({});
    ASSERT_TRUE(node.printed("slow starts")) << node.output();
    node.signal(SIGTERM);
    EXPECT_EQ(node.wait(15'000), 0) << node.output();
}

TEST_F(ProgramTest, sighup_loads_changed_scripts_again_and_the_node_goes_on) {
    const std::string before =
        "local perilune = require 'perilune'\nlocal ticker = {}\n"
        "function ticker.on_start() perilune.every(20, 'on_tick') end\n"
        "function ticker.on_tick() perilune.log.info('OLD') end\n"
        "return ticker\n";
    folder_.write("service/ticker.lua", before);
    folder_.write("config.lua", "return { services = { { script = \"ticker\" } } }");
    Process node = run({});
    ASSERT_TRUE(node.printed("OLD")) << node.output();
    node.signal(SIGHUP);
    EXPECT_TRUE(node.printed("no script has changed")) << node.output();
    std::string after = before;
    after.replace(after.find("OLD"), 3, "NEW");
    folder_.write("service/ticker.lua", after);
    node.signal(SIGHUP);
    EXPECT_TRUE(node.printed("NEW")) << node.output();
    folder_.write("service/ticker.lua", "return {");
    node.signal(SIGHUP);
    EXPECT_TRUE(node.printed("ticker.lua:1: ")) << node.output();
    node.signal(SIGTERM);
    EXPECT_EQ(node.wait(), 0) << node.output();
}

// A SIGHUP that comes while scripts are loaded must not be lost.
TEST_F(ProgramTest, a_script_that_changes_during_a_reload_is_loaded) {
    const auto script = [](int version) {
        return "local perilune = require 'perilune'\nlocal ticker = {}\n"
               "function ticker.on_start() perilune.every(20, 'on_tick') end\n"
               "function ticker.on_tick() perilune.log.info('VERSION " +
               std::to_string(version) + ".') end\nreturn ticker\n";
    };
    folder_.write("service/ticker.lua", script(0));
    folder_.write("config.lua", "return { services = { { script = \"ticker\" } } }");
    Process node = run({});
    ASSERT_TRUE(node.printed("VERSION 0.")) << node.output();
    for (int version = 1; version <= 30; ++version) {
        folder_.write("service/ticker.lua", script(version));
        node.signal(SIGHUP);
        if (version % 3 != 0) continue;
        const std::string wanted = "VERSION " + std::to_string(version) + ".";
        EXPECT_TRUE(node.printed(wanted)) << node.output();
    }
    node.signal(SIGTERM);
    EXPECT_EQ(node.wait(), 0) << node.output();
}

TEST_F(ProgramTest, a_port_in_use_is_one_message_with_line_key_and_address) {
    const int taken = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    ASSERT_EQ(bind(taken, reinterpret_cast<sockaddr*>(&address), size), 0);
    ASSERT_EQ(listen(taken, 1), 0);
    getsockname(taken, reinterpret_cast<sockaddr*>(&address), &size);
    const std::string port = std::to_string(ntohs(address.sin_port));
    folder_.write("config.lua",
                  "return {\n  log = { level = \"off\" },\n  services = {\n"
                  "    { script = \"store\" },\n    { script = \"listener\",\n"
                  "      options = { port = " +
                      port + " } },\n  },\n}");
    Process node = run({"config.lua"});
    EXPECT_EQ(node.wait(), 1);
    const std::string& output = node.output();
    const std::string place = "config.lua:6: services[2] (listener).options.port: ";
    EXPECT_EQ(output.substr(0, place.size()), place) << output;
    EXPECT_EQ(output.find('\n'), output.size() - 1) << output;
    EXPECT_NE(output.find("127.0.0.1:" + port + " is in use"), std::string::npos) << output;
    close(taken);
}

TEST_F(ProgramTest, an_option_that_a_service_refuses_is_one_message_with_line_and_key) {
    folder_.write("service/picky.lua", R"(
        return { on_start = function() error("listen[2]: option kind can't be odd", 0) end })");
    folder_.write("config.lua",
                  "return {\n  log = { level = \"off\" },\n  services = {\n"
                  "    { script = \"picky\", options = {\n      listen = {\n        { port = 1 },\n"
                  "        { port = 2,\n          kind = \"odd\" },\n  } } },\n  },\n}");
    Process node = run({"config.lua"});
    EXPECT_EQ(node.wait(), 1);
    EXPECT_EQ(node.output(),
              "config.lua:8: services[1] (picky).options.listen[2].kind: "
              "listen[2]: option kind can't be odd\n");
}

TEST_F(ProgramTest, a_data_folder_that_can_not_be_made_is_one_message_with_line_and_key) {
    folder_.write("config.lua", "return {\n  data = \"/proc/x\",\n}");
    Process node = run({"config.lua"});
    EXPECT_EQ(node.wait(), 1);
    EXPECT_EQ(node.output().substr(0, 20), "config.lua:2: data: ") << node.output();
    EXPECT_EQ(node.output().find('\n'), node.output().size() - 1) << node.output();
}

TEST_F(ProgramTest, the_log_says_that_a_service_died_of_memory_and_what_an_error_was) {
    folder_.write("service/victim.lua", R"(
        local perilune = require "perilune"
        local victim = {}
        function victim.on_start()
          perilune.fork(function() error { code = "no_gold", need = 5 } end)
          perilune.fork(function() return ("x"):rep(2 ^ 30) end)
          perilune.fork(function()
            local list = {}
            while true do list[#list + 1] = {} end
          end)
        end
        return victim)");
    folder_.write("config.lua",
                  "return { services = { { script = \"victim\", memory_mb = 32 } } }");
    Process node = run({});
    EXPECT_TRUE(node.printed("victim: ended: memory (limit 32 MB) in fork")) << node.output();
    for (const char* text : {"{code = \"no_gold\", need = 5}", "not enough memory (limit 32 MB)"}) {
        EXPECT_NE(node.output().find(text), std::string::npos) << node.output();
    }
    node.signal(SIGTERM);
    (void)node.wait();
}

TEST_F(ProgramTest, a_reload_logs_what_is_new_and_what_is_gone) {
    folder_.write("service/first.lua", "return { a = function() end, b = function() end }");
    folder_.write("service/second.lua", "return { c = function() end }");
    folder_.write("config.lua",
                  "return { services = { { script = \"first\" }, { script = \"second\" } } }");
    Process node = run({});
    ASSERT_TRUE(node.printed("runs 2 services")) << node.output();
    folder_.write("service/first.lua", "return { a = function() end }");
    std::filesystem::remove(folder_ / "service/second.lua");
    node.signal(SIGHUP);
    EXPECT_TRUE(node.printed("first: services that run the new text: 1")) << node.output();
    EXPECT_NE(node.output().find("first: its new text has no longer: b"), std::string::npos)
        << node.output();
    EXPECT_NE(node.output().find("there is no script \"second\""), std::string::npos)
        << node.output();
    node.signal(SIGTERM);
    EXPECT_EQ(node.wait(), 0) << node.output();
}

TEST_F(ProgramTest, the_start_line_says_where_it_listens) {
    folder_.write("config.lua",
                  "return { services = { { script = \"listener\", options = { port = 0 } } } }");
    Process node = run({"config.lua"});
    EXPECT_TRUE(node.printed("listens on 127.0.0.1:")) << node.output();
    EXPECT_TRUE(node.printed("Stop it with Ctrl-C")) << node.output();
    node.signal(SIGTERM);
    EXPECT_EQ(node.wait(), 0);
}

TEST_F(ProgramTest, commands_that_are_wrong_exit_with_2_and_say_how) {
    const std::vector<std::vector<std::string>> wrong = {
        {"rnu"},
        {"--nothing"},
        {"config.lua", "b.lua"},
        {"check", "a", "b"},
        {"check", "-x"},
        {"test"},
        {"test", "nowhere"},
        {"test", ".", "--seed", "x"},
        {"test", ".", "--limit", "0"},
        {"bots"},
        {"bots", "chat", "--count", "0"},
        {"bots", "chat", "--count"},
    };
    for (const std::vector<std::string>& words : wrong) {
        Process program = run(words);
        EXPECT_EQ(program.wait(), 2) << words[0] << ": " << program.output();
        EXPECT_NE(program.output().find("perilune help"), std::string::npos) << program.output();
    }
    Process unknown = run({"rnu"});
    EXPECT_EQ(unknown.wait(), 2);
    EXPECT_NE(unknown.output().find("no command, and no file \"rnu\""), std::string::npos)
        << unknown.output();
}

TEST_F(ProgramTest, a_mode_of_bots_that_there_is_not_is_answered_with_those_there_are) {
    Process bots = run({"bots", "foo"});
    EXPECT_EQ(bots.wait(60'000), 1);
    EXPECT_NE(bots.output().find("can't be foo: it is one of chat"), std::string::npos)
        << bots.output();
    EXPECT_EQ(bots.output().find("traceback"), std::string::npos) << bots.output();
}

TEST_F(ProgramTest, bots_ignore_sighup) {
    folder_.write(
        "config.lua",
        "return { services = { { script = \"gateway\", options = { listen = { { port = 0 } } } }, "
        "{ script = \"dbproxy\" }, { script = \"auth\" }, { script = \"talkroom\" } } }");
    Process node = run({});
    const std::string command = "perilune bots chat --count 2 --port ";
    ASSERT_TRUE(node.printed(command)) << node.output();
    ASSERT_TRUE(node.printed("\n")) << node.output();
    const std::string port = std::to_string(
        std::atoi(node.output().c_str() + node.output().find(command) + command.size()));
    Process bots = run({"bots", "chat", "--count", "2", "--seconds", "3", "--port", port});
    ASSERT_TRUE(bots.printed("2 bots  sent")) << bots.output();  // once a second
    bots.signal(SIGHUP);
    EXPECT_EQ(bots.wait(60'000), 0) << bots.output();
    node.signal(SIGTERM);
    EXPECT_EQ(node.wait(), 0) << node.output();
}

TEST_F(ProgramTest, help_and_version_exit_with_0) {
    for (const std::vector<std::string>& words :
         std::vector<std::vector<std::string>>{{"help"},
                                               {"--help"},
                                               {"help", "test"},
                                               {"help", "config"},
                                               {"version"},
                                               {"bots", "--help"},
                                               {"test", "-h"}}) {
        Process program = run(words);
        EXPECT_EQ(program.wait(), 0) << program.output();
    }
    Process config = run({"help", "config"});
    EXPECT_EQ(config.wait(), 0);
    EXPECT_NE(config.output().find("watchdog.interrupt_ms"), std::string::npos);
}

TEST_F(ProgramTest, a_good_config_is_checked_without_starting_it) {
    write_load(0);
    Process check = run({"check"});
    EXPECT_EQ(check.wait(), 0) << check.output();
    EXPECT_EQ(check.output(), "config.lua: OK, 2 services\n");
    EXPECT_FALSE(std::filesystem::exists(folder_ / "data"));
}

TEST_F(ProgramTest, bots_are_proposed_only_where_they_can_chat) {
    const auto printed = [this](const std::string& listen, const std::string& room) {
        folder_.write("config.lua",
                      "return { services = { { script = \"dbproxy\" }, { script = \"auth\" }, " +
                          room + "{ script = \"gateway\", options = { listen = { " + listen +
                          " } } } } }");
        Process node = run({});
        EXPECT_TRUE(node.printed("Load changed scripts")) << node.output();
        node.signal(SIGTERM);
        EXPECT_EQ(node.wait(), 0) << node.output();
        return node.output();
    };
    const std::string room = "{ script = \"talkroom\" }, ";
    EXPECT_NE(printed("{ port = 0 }", room).find("bots chat"), std::string::npos);
    EXPECT_EQ(printed("{ port = 0 }", "").find("bots chat"), std::string::npos);
    EXPECT_EQ(printed("{ port = 0, encrypt = true }", room).find("bots chat"), std::string::npos);
    EXPECT_EQ(printed("{ port = 0, kind = \"websocket\" }", room).find("bots chat"),
              std::string::npos);
}

TEST_F(ProgramTest, a_script_beside_its_config_is_named_as_a_user_would) {
    folder_.write("game/bad.lua", "local bad =");
    folder_.write("game/config.lua",
                  "return { paths = { \".\" }, services = { { script = \"bad\" } } }");
    Process check = run({"check", "game/config.lua"});
    EXPECT_EQ(check.wait(), 1);
    EXPECT_NE(check.output().find(": game/bad.lua:1: "), std::string::npos) << check.output();
}

TEST_F(ProgramTest, tests_are_counted_and_a_failed_one_is_the_exit_code) {
    folder_.write("tests/good_test.lua", R"(
        local test = require "perilune.test"
        test("one", function() test.equal(1, 1) end)
        test("two", function() require("perilune").sleep(60000) end, 120000)
        return test)");
    folder_.write("tests/bad_test.lua", R"(
        local test = require "perilune.test"
        test("fails", function() test.equal(1, 2) end)
        test("passes", function() end)
        return test)");
    folder_.write("tests/torn_test.lua", "return {");
    folder_.write("tests/helper.lua", "error('this is no test')");
    Process good = run({"test", "tests/good_test.lua", "--seed", "3"});
    EXPECT_EQ(good.wait(), 0) << good.output();
    EXPECT_EQ(good.output(), "2 passed, 0 failed\n");
    Process all = run({"test", "tests", "--seed=3"});
    EXPECT_EQ(all.wait(), 1);
    EXPECT_NE(all.output().find("FAILED tests/bad_test.lua: fails"), std::string::npos)
        << all.output();
    EXPECT_NE(all.output().find("torn_test.lua:1: "), std::string::npos) << all.output();
    EXPECT_NE(all.output().find("3 passed, 2 failed\n"), std::string::npos) << all.output();
    Process filtered = run({"test", "tests/bad_test.lua", "--filter", "passes"});
    EXPECT_EQ(filtered.wait(), 0);
    EXPECT_EQ(filtered.output(), "1 passed, 0 failed\n");
    Process none = run({"test", "tests/bad_test.lua", "--filter", "nothing like it"});
    EXPECT_EQ(none.wait(), 1);
    EXPECT_NE(none.output().find("no test's name contains"), std::string::npos) << none.output();
}

TEST_F(ProgramTest, bots_without_a_server_fail) {
    Process bots = run({"bots", "chat", "--count", "2", "--port", "1", "--seconds", "1"});
    EXPECT_EQ(bots.wait(60'000), 1) << bots.output();
}

TEST_F(ProgramTest, the_example_of_embedding_runs) {
    const std::filesystem::path build = std::filesystem::path(node_program()).parent_path();
    const std::string program = (build / "examples/embed/embed").string();
    if (!std::filesystem::exists(program)) GTEST_SKIP() << "the example is not built";
    Process embed(std::filesystem::current_path().string(), {program});
    EXPECT_EQ(embed.wait(), 0) << embed.output();
    EXPECT_NE(embed.output().find("Hello Ada, frame "), std::string::npos) << embed.output();
    EXPECT_NE(embed.output().find("error: who scored?"), std::string::npos) << embed.output();
}

}  // namespace
}  // namespace perilune::test
