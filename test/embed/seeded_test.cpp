// A seeded node: the same seed, the same order of events, of a whole node with services, timers,
// random numbers and a connection.
#include <gtest/gtest.h>

#include <future>
#include <set>

#include "perilune/node.h"
#include "process.h"

namespace perilune {
namespace {

constexpr const char* kMain = R"(
local perilune = require "perilune"
local socket = require "perilune.socket"
local main, open = {}, 0

local function write(...) perilune.send("journal", "write", table.concat({ ... }, " ")) end

function main.finished(name)
  write("finished", name)
  open = open - 1
  if open == 0 then perilune.send("journal", "done") end
end

function main.on_start()
  local names = {}
  for i = 1, 6 do
    names["player" .. i .. math.random(1000)] = true
    open = open + 1
  end
  -- The order of pairs hangs on addresses and on the seed of strings.
  for name in pairs(names) do
    perilune.spawn("player", { name = name }, { name = name, group = open % 2 == 0 and "g" or nil })
    write("spawned", name)
  end
  open = open + 1
  local listener = assert(socket.listen { host = "127.0.0.1", port = 7000, framing = "line",
    on_open = function(connection)
      for line in connection:each() do
        write("read", line)
        connection:write("echo " .. line)
      end
    end })
  perilune.fork(function()
    local connection = assert(socket.connect("127.0.0.1", 7000, { framing = "line" }))
    for i = 1, 5 do
      connection:write("line " .. i)
      write("got", connection:read())
      perilune.sleep(math.random(20))
    end
    connection:close()
    listener:close()
    main.finished("connection")
  end)
end
return main
)";

constexpr const char* kPlayer = R"(
local perilune = require "perilune"
local player, name, moves = {}, nil, 0
function player.on_start(options)
  name = options.name
  perilune.timeout(math.random(5), "on_move")
end
function player.on_move()
  moves = moves + 1
  perilune.send("journal", "write", name .. " moves " .. moves .. " at " .. perilune.now())
  local names = {}
  for other in pairs(perilune.node().names) do
    if other:find("^player") and other ~= name then names[#names + 1] = other end
  end
  local other = names[math.random(math.max(1, #names))] or name
  local ok = pcall(perilune.call_within, 30, other, "hit", name)
  perilune.send("journal", "write", name .. (ok and " hits" or " misses"))
  if moves < 8 then return perilune.timeout(math.random(40), "on_move") end
  perilune.send("main", "finished", name)
end
function player.hit(who)
  perilune.sleep(math.random(50))
  return who
end
return player
)";

constexpr const char* kGroups = R"(
local perilune = require "perilune"
local main = {}
local function vms() return perilune.node().counters.vms end
function main.on_start()
  perilune.fork(function()
    local before = vms()
    local function write(when) perilune.send("journal", "write", when .. ": " .. vms() - before) end
    for i = 1, 3 do perilune.stop(perilune.spawn("room", nil, { group = "group " .. i })) end
    perilune.sleep(59000)
    write "kept"
    local room = perilune.spawn("room", nil, { group = "group 1" })
    perilune.sleep(2000)
    write "a minute later"
    perilune.sleep(100000)
    write "in use"
    perilune.stop(room)
    perilune.sleep(59000)
    write "kept again"
    perilune.sleep(2000)
    write "empty"
    perilune.send("journal", "done")
  end)
end
return main
)";

// Keeps what it is told, until it is told that all is done.
class Journal : public NativeService {
  public:
    Journal(std::vector<std::string>& lines, std::promise<void>& done)
        : lines_(lines), done_(done) {}
    Result<Values> on_message(Request& request) override {
        if (request.command() == "write") lines_.push_back(request.argument(1).string());
        if (request.command() == "done") done_.set_value();
        return Values{};
    }

  private:
    std::vector<std::string>& lines_;
    std::promise<void>& done_;
};

class SeededTest : public testing::Test {
  protected:
    SeededTest() {
        folder_.write("service/main.lua", kMain);
        folder_.write("service/player.lua", kPlayer);
    }

    std::vector<std::string> run(std::uint64_t seed) {
        Config config;
        config.base = folder_.path();
        config.seed = seed;
        config.log.stream = "none";
        ServiceConfig journal;
        journal.script = "journal";
        ServiceConfig main;
        main.script = "main";
        config.services = {journal, main};
        std::vector<std::string> lines;
        std::promise<void> done;
        Node node(std::move(config));
        node.register_service("journal", [&] { return std::make_unique<Journal>(lines, done); });
        const Status status = node.start();
        EXPECT_TRUE(status.ok()) << status.message();
        if (!status.ok()) return {};
        EXPECT_EQ(done.get_future().wait_for(std::chrono::seconds(30)), std::future_status::ready)
            << (lines.empty() ? "nothing" : lines.back()) << " was the last of " << lines.size();
        node.stop();
        return lines;
    }

    test::Folder folder_;
};

TEST_F(SeededTest, the_same_seed_gives_the_same_order_of_events) {
#if defined(PERILUNE_TSAN) || defined(PERILUNE_ASAN)
    const int runs = 10;
#else
    const int runs = 100;
#endif
    const std::vector<std::string> first = run(1);
    EXPECT_GT(first.size(), 100u);
    for (int i = 0; i < runs; ++i) {
        const std::vector<std::string> again = run(1);
        ASSERT_EQ(first.size(), again.size()) << "run " << i;
        for (std::size_t line = 0; line < first.size(); ++line) {
            ASSERT_EQ(first[line], again[line]) << "run " << i << ", line " << line;
        }
    }
}

TEST_F(SeededTest, other_seeds_give_other_orders) {
    std::set<std::vector<std::string>> orders;
    for (std::uint64_t seed = 1; seed <= 5; ++seed) orders.insert(run(seed));
    EXPECT_EQ(orders.size(), 5u);
}

TEST_F(SeededTest, a_group_keeps_a_vm_for_a_minute_after_its_last_service) {
    folder_.write("service/main.lua", kGroups);
    folder_.write("service/room.lua", "return {}");
    const std::vector<std::string> expected = {"kept: 3", "a minute later: 1", "in use: 1",
                                               "kept again: 1", "empty: 0"};
    EXPECT_EQ(run(1), expected);
}

}  // namespace
}  // namespace perilune
