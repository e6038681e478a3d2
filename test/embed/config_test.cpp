// Configuration: promise 34, and that config.lua, its annotations and the table of options say
// the same.
#include "perilune/config.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <fstream>

#include "config_cases.h"
#include "lua/config_script.h"
#include "node/config_lines.h"
#include "node/config_schema.h"
#include "process.h"

namespace perilune {
namespace {

using test::BrokenConfig;
using test::Folder;
using test::kBrokenConfigs;
using test::Process;

constexpr const char* kOptionsScript = R"(
local perilune = require "perilune"
local limits = require "perilune.native.limits"
local service = {}
service.options = {
  port = { type = "integer", min = 1, max = 65535, default = 6080 },
  mode = { type = "string", choices = { "fast", "safe" } },
  limit = { type = "number", max = limits.most * 2 },
  listen = { type = "table", items = {
    port = { type = "integer", min = 1, max = 65535, required = true, meaning = "TCP port" },
  } },
}
function service.on_start() perilune.log.info("started") end
return service
)";

// A folder with scripts, and a config.lua in it.
class ConfigTest : public testing::Test {
  protected:
    ConfigTest() {
        folder_.write("service/good.lua", "return {}\n");
        folder_.write("service/bad.lua", "local bad = {}\nfunction bad.run( end\nreturn bad\n");
        folder_.write("service/options.lua", kOptionsScript);
    }

    std::string file() const { return folder_ / "config.lua"; }
    ConfigCheck load(const std::string& text) const {
        folder_.write("config.lua", text);
        return load_config(file());
    }

    Folder folder_;
};

std::string beginning(const BrokenConfig& broken) {
    return "config.lua:" + std::to_string(broken.line) + ": " + broken.begins;
}

TEST_F(ConfigTest, every_broken_config_has_one_message_with_file_line_key_and_remedy) {
    EXPECT_GE(kBrokenConfigs.size(), 40u);
    for (const BrokenConfig& broken : kBrokenConfigs) {
        const ConfigCheck check = load(broken.text);
        ASSERT_EQ(check.problems.size(), 1u)
            << broken.name << (check.ok() ? "" : "\n" + check.problems.back());
        const std::string& message = check.problems[0];
        const std::string expected = folder_ / beginning(broken);
        EXPECT_EQ(message.substr(0, expected.size()), expected) << broken.name;
        EXPECT_NE(message.find(broken.remedy, expected.size()), std::string::npos)
            << broken.name << ": " << message;
        EXPECT_EQ(message.find('\n'), std::string::npos) << broken.name;
    }
}

TEST_F(ConfigTest, perilune_refuses_every_broken_config_within_two_seconds) {
    const std::string program = test::node_program();
    if (program.empty()) GTEST_SKIP() << "the program is not built";
    for (std::size_t i = 0; i < kBrokenConfigs.size(); ++i) {
        const BrokenConfig& broken = kBrokenConfigs[i];
        folder_.write("config.lua", broken.text);
        // Checking and running say the same; running is tried with every fourth.
        for (const bool run : {false, true}) {
            if (run && i % 4 != 0) continue;
            const auto began = std::chrono::steady_clock::now();
            std::vector<std::string> command = {program, "check", "config.lua"};
            if (run) command = {program, "config.lua"};
            Process process(folder_.path(), command);
            EXPECT_EQ(process.wait(), 1) << broken.name;
            const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
            EXPECT_LT(took.count(), 2.0) << broken.name;
            EXPECT_EQ(process.output().substr(0, beginning(broken).size()), beginning(broken))
                << process.output();
            EXPECT_EQ(process.output().find('\n'), process.output().size() - 1) << process.output();
        }
    }
    EXPECT_FALSE(std::filesystem::exists(folder_ / "data")) << "something was started";
}

TEST_F(ConfigTest, several_mistakes_are_all_named_in_the_order_of_lines) {
    const ConfigCheck check = load("return {\n  wrokers = 1,\n  name = 3,\n  data = 4,\n}");
    ASSERT_EQ(check.problems.size(), 3u);
    for (std::size_t i = 0; i < 3; ++i) {
        const std::string place = file() + ":" + std::to_string(i + 2) + ": ";
        EXPECT_EQ(check.problems[i].substr(0, place.size()), place);
    }
}

TEST_F(ConfigTest, a_good_config_sets_what_it_says_and_leaves_the_rest) {
    const ConfigCheck check = load(R"(
        return {
          name = "n1", workers = 3, trusted = { "good" }, env = { motd = "hi", nested = { 1, 2 } },
          log = { level = "warn", levels = { gateway = "debug" } },
          lua = { jit = false },
          services = {
            { script = "good" },
            { script = "options", name = "two", group = "g", memory_mb = 7, mailbox = 99,
              options = { port = 1, mode = "safe", limit = 1e9 } },
          },
        })");
    ASSERT_TRUE(check.ok()) << check.problems[0];
    const Config& config = check.config;
    EXPECT_EQ(config.name, "n1");
    EXPECT_EQ(config.workers, 3);
    EXPECT_EQ(config.spare_workers, 4);
    EXPECT_EQ(config.env["motd"].string(), "hi");
    EXPECT_EQ(config.env["nested"][2].number(), 2);
    EXPECT_EQ(config.log.levels.at("gateway"), "debug");
    EXPECT_FALSE(config.lua.jit);
    EXPECT_EQ(config.base, folder_.path());
    ASSERT_EQ(config.services.size(), 2u);
    EXPECT_EQ(config.services[0].name, "good");
    EXPECT_EQ(config.services[1].name, "two");
    EXPECT_EQ(config.services[1].group, "g");
    EXPECT_EQ(config.services[1].memory_mb, 7);
    EXPECT_EQ(config.services[1].mailbox, 99);
    EXPECT_EQ(config.services[1].options["mode"].string(), "safe");
    EXPECT_EQ(config.services[1].origin, file() + ":8: services[2]");
}

TEST_F(ConfigTest, env_takes_the_type_of_its_default) {
    setenv("PERILUNE_TEST_PORT", "7", 1);
    const std::string text =
        "return { workers = env('PERILUNE_TEST_PORT', 1), "
        "spare_workers = env('PERILUNE_TEST_NONE', 2) }";
    const ConfigCheck check = load(text);
    ASSERT_TRUE(check.ok()) << check.problems[0];
    EXPECT_EQ(check.config.workers, 7);
    EXPECT_EQ(check.config.spare_workers, 2);
    setenv("PERILUNE_TEST_PORT", "seven", 1);
    const ConfigCheck wrong = load(text);
    ASSERT_EQ(wrong.problems.size(), 1u);
    EXPECT_NE(wrong.problems[0].find("\"seven\", which is no number"), std::string::npos);
    unsetenv("PERILUNE_TEST_PORT");
}

TEST_F(ConfigTest, included_files_are_relative_to_the_config) {
    folder_.write("parts/log.lua", "return { level = \"debug\" }");
    const ConfigCheck check = load("return { log = include(\"parts/log.lua\") }");
    ASSERT_TRUE(check.ok()) << check.problems[0];
    EXPECT_EQ(check.config.log.level, "debug");
}

TEST_F(ConfigTest, a_missing_file_is_named) {
    const ConfigCheck check = load_config(folder_ / "nothing.lua");
    ASSERT_EQ(check.problems.size(), 1u);
    EXPECT_NE(check.problems[0].find("nothing.lua"), std::string::npos);
}

TEST(ConfigLines, lines_are_found_through_comments_strings_and_functions) {
    const ConfigLines lines(
        "local x = { a = 1 }\n"                                                // 1
        "--[[ return { a = 1 }\n]] local function f() return { b = 2 } end\n"  // 2, 3
        "return {\n"                                                           // 4
        "  a = (function(p, q) if p then return 1, 2 end end)(1, 2),\n"        // 5
        "  [ [[b]] ] = 'it''s, {' .. \"}\\\"\", --, c\n"                       // 6
        "  c = {\n    1, { d = 2,\n e = x }; f = 3,\n  },\n"                   // 7 to 10
        "  ['a b'] = 4, [7] = 5,\n"                                            // 11
        "}");
    EXPECT_EQ(lines.line("a"), 5);
    EXPECT_EQ(lines.line("b"), 6);
    EXPECT_EQ(lines.line("c"), 7);
    EXPECT_EQ(lines.line("c[1]"), 8);
    EXPECT_EQ(lines.line("c[2].d"), 8);
    EXPECT_EQ(lines.line("c[2].e.deep"), 9);
    EXPECT_EQ(lines.line("c.f"), 9);
    EXPECT_EQ(lines.line("[\"a b\"]"), 11);
    EXPECT_EQ(lines.line("[7]"), 11);
    EXPECT_EQ(lines.line("unknown"), 4);
    EXPECT_TRUE(lines.repeated().empty());
}

// The one file that shows every option is complete, and says the defaults.
TEST(ConfigFile, the_example_has_every_option_with_its_default) {
    const std::string folder = std::getenv("PERILUNE_SOURCE") != nullptr
                                   ? std::getenv("PERILUNE_SOURCE")
                                   : std::filesystem::current_path().string();
    std::string text;
    if (!read_text(folder + "/config.lua", text)) GTEST_SKIP() << "not in the source tree";
    const ConfigScriptResult script = run_config("config.lua", text, folder);
    ASSERT_EQ(script.error, "");
    Config defaults;
    std::string annotations;
    ASSERT_TRUE(read_text(folder + "/lualib/meta/config.lua", annotations));
    for (const ConfigOption<Config>& option : config_options()) {
        const std::string key = option.key;
        const std::size_t dot = key.find('.');
        const Value& value = dot == std::string::npos
                                 ? script.value[key]
                                 : script.value[key.substr(0, dot)][key.substr(dot + 1)];
        EXPECT_FALSE(value.is_nil()) << key << " is not in config.lua";
        const std::string word = dot == std::string::npos ? key : key.substr(dot + 1);
        EXPECT_NE(annotations.find("---@field " + word + " "), std::string::npos)
            << key << " is not in lualib/meta/config.lua";
        std::visit(
            [&](auto field) {
                using Member = std::remove_reference_t<decltype(field(defaults))>;
                const Member& member = field(defaults);
                if constexpr (std::is_same_v<Member, bool> || std::is_same_v<Member, int> ||
                              std::is_same_v<Member, std::string>) {
                    EXPECT_EQ(value, Value(member)) << key;
                } else {
                    EXPECT_TRUE(value.table().empty()) << key;
                }
            },
            option.field);
    }
    for (const ConfigOption<ServiceConfig>& option : service_options()) {
        EXPECT_NE(text.find(std::string("--   ") + option.key), std::string::npos) << option.key;
    }
}

TEST(ConfigFile, the_defaults_are_within_their_limits) {
    int problems = 0;
    check_limits(Config(), [&](const std::string& path, const std::string& text) {
        ++problems;
        ADD_FAILURE() << path << ": " << text;
    });
    EXPECT_EQ(problems, 0);
}

}  // namespace
}  // namespace perilune
