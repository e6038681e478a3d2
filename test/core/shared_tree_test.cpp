// Tests of shared data: the tree, the store that replaces it, and its proxies in Lua.
#include "core/shared_tree.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "core/codec.h"
#include "lua/lua_codec.h"
#include "lua/lua_shared.h"

namespace perilune {
namespace {

using Kind = SharedTree::Kind;
using TreeRef = std::shared_ptr<const SharedTree>;

std::string encoded(const Value& value) {
    PayloadWriter out;
    EXPECT_TRUE(encode({value}, out).ok());
    return {out.data(), out.size()};
}

TreeRef tree_of(const Value& value) {
    const std::string bytes = encoded(value);
    const Result<TreeRef> tree = SharedTree::build(bytes.data(), bytes.size());
    EXPECT_TRUE(tree.ok()) << tree.status().message();
    return tree.value();
}

// The value that a tree was built from.
Value value_of(const SharedTree& tree, const SharedTree::Item& item) {
    PayloadWriter out;
    EXPECT_TRUE(tree.encode(item, out, 0).ok());
    return decode(out.data(), out.size()).value().at(0);
}

double number_at(const SharedTree& tree, std::string_view key) {
    const SharedTree::Item* item = tree.find(tree.node(tree.root()), key);
    return item == nullptr ? NAN : item->number;
}

// A VM with the libraries, the codec, and the global `shared`: a proxy of a tree.
class Vm {
  public:
    Vm() : L(luaL_newstate()) {
        luaL_openlibs(L);
        luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
        push_codec_library(L);
        lua_setglobal(L, "codec");
    }
    explicit Vm(const Value& value) : Vm() { share("shared", tree_of(value)); }
    ~Vm() { lua_close(L); }
    Vm(const Vm&) = delete;
    Vm& operator=(const Vm&) = delete;

    void share(const char* name, TreeRef tree) {
        push_shared_tree(L, std::move(tree));
        lua_setglobal(L, name);
    }

    std::string run(const std::string& code) {
        lua_settop(L, 0);
        if (luaL_loadstring(L, code.c_str()) != 0 || lua_pcall(L, 0, 1, 0) != 0) {
            return std::string("error: ") + lua_tostring(L, -1);
        }
        return lua_isnil(L, -1) ? "nil" : lua_tostring(L, -1);
    }

    lua_State* const L;
};

const Value kConfig = Table{
    {"name", "世界"},
    {"rate", 2.5},
    {"open", true},
    {"items",
     Value::array({Table{{"id", 1}, {"name", "sword"}}, Table{{"id", 2}, {"name", "bow"}}})},
    {7, "seven"},
    {1.5, "float"},
    {false, "no"},
};

TEST(SharedTree, FindsWhatWasPutIn) {
    const TreeRef tree = tree_of(kConfig);
    const SharedTree::Node& root = tree->node(tree->root());
    EXPECT_EQ(tree->text(*tree->find(root, "name")), "世界");
    EXPECT_EQ(tree->find(root, "rate")->number, 2.5);
    EXPECT_TRUE(tree->find(root, "open")->boolean);
    EXPECT_EQ(tree->text(*tree->find(root, 7.0)), "seven");
    EXPECT_EQ(tree->text(*tree->find(root, 1.5)), "float");
    EXPECT_EQ(tree->text(*tree->find(root, false)), "no");
    EXPECT_EQ(tree->find(root, true), nullptr);
    EXPECT_EQ(tree->find(root, "nam"), nullptr);
    EXPECT_EQ(tree->find(root, 8.0), nullptr);
    EXPECT_EQ(tree->find(root, std::nan("")), nullptr);
    const SharedTree::Node& items = tree->node(*tree->find(root, "items"));
    EXPECT_EQ(items.array_count, 2u);
    const SharedTree::Node& second = tree->node(*tree->find(items, 2.0));
    EXPECT_EQ(tree->text(*tree->find(second, "name")), "bow");
    EXPECT_EQ(value_of(*tree, tree->root()), kConfig);
}

TEST(SharedTree, EveryKeyOfALargeTableIsFound) {
    Table table;
    for (int i = 0; i < 20000; ++i) table.emplace_back("key" + std::to_string(i), i);
    for (int i = 0; i < 20000; ++i) table.emplace_back(i * 1000 + 5, i);
    const TreeRef tree = tree_of(table);
    const SharedTree::Node& root = tree->node(tree->root());
    for (int i = 0; i < 20000; ++i) {
        ASSERT_EQ(number_at(*tree, "key" + std::to_string(i)), i);
        ASSERT_EQ(tree->find(root, i * 1000.0 + 5)->number, i);
    }
    EXPECT_EQ(tree->find(root, "key20000"), nullptr);
}

TEST(SharedTree, AnArrayThatCameOutOfOrderIsAnArray) {
    Table table{{"x", 0}};
    for (int i = 50; i >= 1; --i) table.emplace_back(i, i);
    table.emplace_back(52, 52);
    const TreeRef tree = tree_of(table);
    const SharedTree::Node& root = tree->node(tree->root());
    EXPECT_EQ(root.array_count, 50u);
    EXPECT_EQ(root.entry_count, 2u);
    for (int i = 1; i <= 50; ++i) EXPECT_EQ(tree->find(root, static_cast<double>(i))->number, i);
    EXPECT_EQ(tree->find(root, 52.0)->number, 52);
}

TEST(SharedTree, ADoubleKeyIsThereOnceWithItsLastValue) {
    const std::string bytes("\xda\x01\x03\x05\x81k\x01\x81k\x02\x01\x09", 12);
    const Result<TreeRef> tree = SharedTree::build(bytes.data(), bytes.size());
    ASSERT_TRUE(tree.ok());
    EXPECT_EQ(number_at(*tree.value(), "k"), 2);
    const SharedTree::Node& root = tree.value()->node(tree.value()->root());
    EXPECT_EQ(tree.value()->find(root, 1.0)->number, 9);
    EXPECT_EQ(SharedTree::positions(root), 2u);
}

TEST(SharedTree, EqualStringsAreKeptOnce) {
    Values rows;
    for (int i = 0; i < 1000; ++i) {
        rows.push_back(Table{{"a rather long name of a column", i}, {"name", "the same text"}});
    }
    const TreeRef tree = tree_of(Value::array(rows));
    EXPECT_LT(tree->memory(), 150'000u);
}

TEST(SharedTree, IsBuiltOfExactlyOneValue) {
    EXPECT_FALSE(SharedTree::build("", 0).ok());
    EXPECT_FALSE(SharedTree::build("\x01\x02", 2).ok());
    EXPECT_TRUE(SharedTree::build("\x01", 1).ok());
    SharedStore store;
    EXPECT_TRUE(store.put("n", "\x05", 1).ok());
    EXPECT_FALSE(store.put("n", "\xff", 1).ok());
    EXPECT_EQ(store.get("n")->root().number, 5);
    EXPECT_EQ(store.get("m"), nullptr);
    EXPECT_TRUE(store.remove("n"));
    EXPECT_FALSE(store.remove("n"));
    EXPECT_EQ(store.get("n"), nullptr);
}

TEST(SharedStore, IsBoundedInNamesAndBytes) {
    const std::string small = encoded(Table());
    SharedStore store(1 << 20);
    for (std::size_t i = 0; i < SharedStore::kMaxNames; ++i) {
        ASSERT_TRUE(store.put("name " + std::to_string(i), small.data(), small.size()).ok());
    }
    const std::size_t bytes = store.counters().bytes;
    EXPECT_EQ(store.counters().names, SharedStore::kMaxNames);
    EXPECT_EQ(store.put("one more", small.data(), small.size()).code(), StatusCode::too_large);
    const std::string large = encoded(Table{{"text", std::string(2 << 20, 'x')}});
    const Status status = store.put("name 0", large.data(), large.size());
    EXPECT_EQ(status.code(), StatusCode::too_large);
    EXPECT_NE(std::string(status.message()).find("1 MB at most"), std::string::npos);
    EXPECT_NE(store.get("name 0"), nullptr);  // it keeps what it had
    EXPECT_EQ(store.counters().refused, 2u);
    EXPECT_EQ(store.counters().bytes, bytes);
    EXPECT_TRUE(store.remove("name 0"));
    EXPECT_LT(store.counters().bytes, bytes);
    EXPECT_TRUE(store.put("one more", small.data(), small.size()).ok());
    EXPECT_EQ(store.put("", small.data(), small.size()).code(), StatusCode::invalid);
    EXPECT_EQ(store.put(std::string(129, 'x'), small.data(), small.size()).code(),
              StatusCode::invalid);
}

TEST(SharedStore, ReadersSeeWholeVersionsWhileAWriterReplacesThem) {
    SharedStore store;
    constexpr int kVersions = 400;
    const auto version = [](int number) {
        Table table;
        for (int i = 0; i < 50; ++i) table.emplace_back("key" + std::to_string(i), number);
        return encoded(table);
    };
    const std::string first = version(0);
    ASSERT_TRUE(store.put("config", first.data(), first.size()).ok());
    std::atomic<bool> is_done{false};
    std::atomic<int> torn{0};
    std::vector<std::thread> readers;
    for (int i = 0; i < 3; ++i) {
        readers.emplace_back([&] {
            double newest = 0;
            while (!is_done) {
                const TreeRef tree = store.get("config");
                const double number = number_at(*tree, "key0");
                if (number < newest) ++torn;
                newest = number;
                for (int key = 0; key < 50; ++key) {
                    if (number_at(*tree, "key" + std::to_string(key)) != number) ++torn;
                }
            }
        });
    }
    for (int number = 1; number <= kVersions; ++number) {
        const std::string bytes = version(number);
        ASSERT_TRUE(store.put("config", bytes.data(), bytes.size()).ok());
    }
    is_done = true;
    for (std::thread& reader : readers) reader.join();
    EXPECT_EQ(torn, 0);
    EXPECT_EQ(number_at(*store.get("config"), "key49"), kVersions);
}

TEST(SharedStore, VmsOnSeveralThreadsReadWhileAWriterReplaces) {
    SharedStore store;
    const auto version = [](int number) {
        return encoded(Table{{"a", Table{{"b", number}}}, {"c", number}});
    };
    const std::string first = version(0);
    ASSERT_TRUE(store.put("config", first.data(), first.size()).ok());
    std::atomic<bool> is_done{false};
    std::atomic<int> wrong{0};
    std::vector<std::thread> readers;
    for (int i = 0; i < 2; ++i) {
        readers.emplace_back([&] {
            Vm vm;
            while (!is_done) {
                vm.share("shared", store.get("config"));
                if (vm.run("return shared.a.b == shared.c and 'same'") != "same") ++wrong;
            }
        });
    }
    for (int number = 1; number <= 300; ++number) {
        const std::string bytes = version(number);
        ASSERT_TRUE(store.put("config", bytes.data(), bytes.size()).ok());
        std::this_thread::yield();
    }
    is_done = true;
    for (std::thread& reader : readers) reader.join();
    EXPECT_EQ(wrong, 0);
}

TEST(LuaShared, IsReadLikeATable) {
    Vm vm(kConfig);
    EXPECT_EQ(vm.run("return shared.name .. shared.rate .. tostring(shared.open)"), "世界2.5true");
    EXPECT_EQ(vm.run("return shared.items[2].name .. shared.items[1].id"), "bow1");
    EXPECT_EQ(vm.run("return shared[7] .. shared[1.5] .. shared[false]"), "sevenfloatno");
    EXPECT_EQ(vm.run("return tostring(shared.absent) .. tostring(shared.items[3]) .. "
                     "tostring(shared[{}]) .. tostring(shared[nil])"),
              "nilnilnilnil");
    EXPECT_EQ(vm.run("return #shared.items .. #shared"), "20");
}

TEST(LuaShared, PairsAndIpairsVisitEveryEntryOnce) {
#ifdef PERILUNE_STOCK_LUAJIT
    GTEST_SKIP() << "Debian's LuaJIT has no __pairs";
#endif
    Vm vm(Table{{1, "a"}, {2, "b"}, {"x", 1}, {"y", Table{}}, {true, 2}, {100, 3}});
    const std::string both = vm.run(R"(
        local keys, n = {}, 0
        for k, v in pairs(shared) do
            n = n + 1
            if keys[k] or v == nil or shared[k] ~= v then error("wrong") end
            keys[k] = true
        end
        if not (keys[1] and keys[2] and keys.x and keys.y and keys[true] and keys[100]) then
            error("missing")
        end
        local text = ""
        for i, v in ipairs(shared) do text = text .. i .. v end
        return n .. text
    )");
    EXPECT_EQ(both, "61a2b");
    EXPECT_EQ(vm.run("for k in pairs(shared.y) do error('entry') end return 'empty'"), "empty");
    EXPECT_EQ(vm.run("for k, v in pairs(shared) do "
                     "for a, b in pairs(shared) do if a == k and b ~= v then error() end end end "
                     "return 'nested'"),
              "nested");
}

TEST(LuaShared, CannotBeChangedOrTakenApart) {
#ifdef PERILUNE_STOCK_LUAJIT
    GTEST_SKIP() << "Debian's LuaJIT has no __pairs";
#endif
    Vm vm(kConfig);
    EXPECT_NE(vm.run("shared.x = 1").find("shared data cannot be changed"), std::string::npos);
    EXPECT_NE(vm.run("shared.items[1].id = 5").find("cannot be changed"), std::string::npos);
    EXPECT_EQ(vm.run("return tostring(getmetatable(shared))"), "false");
    EXPECT_EQ(vm.run("return tostring(pcall(setmetatable, shared, {}))"), "false");
    EXPECT_EQ(vm.run("return tostring(pcall(rawset, shared, 1, 1))"), "false");
    EXPECT_NE(vm.run("local next = pairs(shared) next(io.stdout)").find("shared data expected"),
              std::string::npos);
    EXPECT_NE(vm.run("local next = pairs(shared) next(shared, 'absent')").find("not a key"),
              std::string::npos);
    EXPECT_NE(vm.run("local next = pairs(shared) next(shared, {})").find("not a key"),
              std::string::npos);
    EXPECT_EQ(vm.run("local m = debug.getmetatable(shared) m.__gc(shared) "
                     "return tostring(pcall(function() return shared.name end))"),
              "false");
}

TEST(LuaShared, TheSamePieceIsTheSameValueInAVm) {
    Vm vm(kConfig);
    EXPECT_EQ(vm.run("local a = shared.items collectgarbage() collectgarbage() "
                     "return tostring(a == shared.items and a[1] == shared.items[1])"),
              "true");
    EXPECT_EQ(vm.run("for i = 1, 1000 do local a = shared.items[1 + i % 2] "
                     "if i % 10 == 0 then collectgarbage('step', 100) end "
                     "if a.id ~= 1 + i % 2 then error() end end return 'good'"),
              "good");
}

TEST(LuaShared, AnOldVersionLivesWhileAPieceIsHeld) {
    SharedStore store;
    std::string bytes = encoded(Table{{"a", Table{{"b", 1}}}});
    ASSERT_TRUE(store.put("config", bytes.data(), bytes.size()).ok());
    Vm vm;
    vm.share("shared", store.get("config"));
    vm.run("piece = shared.a shared = nil");
    const std::weak_ptr<const SharedTree> old = store.get("config");
    bytes = encoded(Table{{"a", Table{{"b", 2}}}});
    ASSERT_TRUE(store.put("config", bytes.data(), bytes.size()).ok());
    vm.share("shared", store.get("config"));
    EXPECT_EQ(vm.run("collectgarbage() return piece.b .. shared.a.b"), "12");
    EXPECT_FALSE(old.expired());
    vm.run("piece = nil collectgarbage() collectgarbage()");
    EXPECT_TRUE(old.expired());
}

TEST(LuaShared, IsSentAsAPlainTable) {
    Vm vm(kConfig);
    EXPECT_EQ(vm.run("local t = codec.unpack(codec.pack({shared.items, n = shared})) "
                     "return type(t[1]) .. t[1][2].name .. t.n.name .. t.n[7]"),
              "tablebow世界seven");
    // What it is inside counts for the depth.
    Value deep = 1;
    for (int i = 0; i < 60; ++i) deep = Value::array({deep});
    vm.share("deep", tree_of(deep));
    EXPECT_EQ(vm.run("codec.pack({{{{deep}}}}) return 'good'"), "good");
    EXPECT_NE(vm.run("codec.pack({{{{{deep}}}}})").find("argument 1: [1][1][1][1][1] is nested"),
              std::string::npos);
}

TEST(LuaShared, ARootThatIsNoTableIsItsValue) {
    Vm vm("just text");
    EXPECT_EQ(vm.run("return shared"), "just text");
    vm.share("number", tree_of(5));
    EXPECT_EQ(vm.run("return number + 1"), "6");
}

TEST(LuaShared, AVmMayEndWithProxiesAlive) {
    const TreeRef tree = tree_of(kConfig);
    {
        Vm vm;
        vm.share("shared", tree);
        vm.run("a, b = shared.items, shared.items[1]");
        EXPECT_GT(tree.use_count(), 1);
    }
    EXPECT_EQ(tree.use_count(), 1);
}

}  // namespace
}  // namespace perilune
