#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <vector>

#include "cli/commands.h"
#include "perilune/node.h"

namespace perilune::cli {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view kEnding = "_test.lua";

struct TestOptions {
    std::string filter;
    std::uint64_t seed = 0;
    int limit_ms = 120'000;
    bool verbose = false;
};

struct Totals {
    int passed = 0;
    int failed = 0;
    int skipped = 0;
};

bool is_test(const fs::path& path) {
    const std::string name = path.filename().string();
    return name.size() > kEnding.size() &&
           name.compare(name.size() - kEnding.size(), kEnding.size(), kEnding) == 0;
}

// The test files of a path, in the order of their names.
bool collect(const std::string& path, std::vector<fs::path>& files) {
    std::error_code error;
    if (fs::is_regular_file(path, error)) {
        files.emplace_back(path);
        return true;
    }
    if (!fs::is_directory(path, error)) return false;
    std::vector<fs::path> found;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(path, error)) {
        if (entry.is_regular_file(error) && is_test(entry.path())) found.push_back(entry.path());
    }
    std::sort(found.begin(), found.end());
    files.insert(files.end(), found.begin(), found.end());
    return true;
}

void indent(const std::string& text) {
    std::size_t begin = 0;
    while (begin < text.size()) {
        const std::size_t end = std::min(text.find('\n', begin), text.size());
        std::printf("    %.*s\n", static_cast<int>(end - begin), text.c_str() + begin);
        begin = end + 1;
    }
}

void report(const fs::path& file, const std::string& name, const std::string& text) {
    std::printf("FAILED %s: %s\n", file.c_str(), name.c_str());
    indent(text);
}

// A node for one file. The tests may use everything, so that they can look at the engine. A file
// beside it that ends in .config.lua instead of .lua says what else is special about the node.
Result<Config> test_config(const fs::path& file, const TestOptions& options,
                           const std::string& data) {
    Config config;
    fs::path special = file;
    special.replace_extension(".config.lua");
    std::error_code error;
    if (fs::is_regular_file(special, error)) {
        ConfigCheck check = load_config(special.string());
        if (!check.ok()) return Status::error(StatusCode::invalid, "%s", check.problems[0].c_str());
        config = std::move(check.config);
    }
    config.name = "test";
    config.seed = options.seed;
    config.data = data;
    // What a test writes with perilune.file can be spawned, too.
    config.paths = {fs::absolute(file).parent_path().string(), data};
    config.trusted = {file.stem().string()};
    config.log.level = options.verbose ? "debug" : "off";
    return config;
}

// One file, from start to stop.
void run_file(const fs::path& file, const TestOptions& options, Totals& totals) {
    const auto fail = [&](const std::string& name, const std::string& text) {
        ++totals.failed;
        report(file, name, text);
    };
    std::error_code error;
    // Its name is the same in each seeded run; else runs at the same time don't meet in it.
    const fs::path data =
        fs::temp_directory_path() /
        ("perilune_test_" + std::to_string(std::hash<std::string>{}(fs::absolute(file).string())) +
         "_" + std::to_string(options.seed != 0 ? 0 : getpid()));
    fs::create_directories(data, error);
    Result<Config> config = test_config(file, options, data.string());
    if (!config.ok()) return fail("config", config.status().message());
    Node node(std::move(config.value()));
    if (const Status status = node.start(); !status.ok()) return fail("start", status.message());
    const std::string script = file.stem().string();
    const Value run_options(Table{{"filter", options.filter}, {"seed", options.seed}});
    const Result<std::uint64_t> service = node.spawn(script, run_options, "", options.limit_ms);
    if (!service.ok()) return fail("load", service.status().message());

    const CallResult result = node.call(service.value(), "run", {run_options}, options.limit_ms);
    if (!result.ok()) {
        fail("run", result.message + "\n" + result.traceback);
    } else {
        for (const auto& [index, test] : result.value(1).table()) {
            if (test["skipped"].boolean()) {
                ++totals.skipped;
                std::printf("skipped %s: %s (%s)\n", file.c_str(), test["name"].string().c_str(),
                            test["message"].string().c_str());
                continue;
            }
            const bool ok = test["ok"].boolean();
            (ok ? totals.passed : totals.failed) += 1;
            if (!ok) report(file, test["name"].string(), test["message"].string());
            if (ok && options.verbose) {
                std::printf("ok     %s: %s\n", file.c_str(), test["name"].string().c_str());
            }
        }
    }
    if (!node.stop()) fail("stop", "a service did not stop in time");
    fs::remove_all(data, error);
}

}  // namespace

int test(Arguments& arguments) {
    TestOptions options;
    options.filter = arguments.text("filter");
    options.seed = static_cast<std::uint64_t>(arguments.number("seed", 0, 0, INT64_MAX));
    options.limit_ms = static_cast<int>(arguments.number("limit", 120, 1, 86'400) * 1000);
    options.verbose = arguments.flag("verbose");
    if (const std::string problem = arguments.problem(); !problem.empty()) {
        return misuse("test", problem);
    }
    if (arguments.rest().empty()) return misuse("test", "it wants folders or files");
    std::vector<fs::path> files;
    for (const std::string& path : arguments.rest()) {
        if (!collect(path, files)) return misuse("test", "there is no " + path);
    }
    if (files.empty()) return misuse("test", "no file there is named *_test.lua");
    Totals totals;
    for (const fs::path& file : files) {
        run_file(file, options, totals);
        std::fflush(stdout);
    }
    std::printf("%d passed, %d failed", totals.passed, totals.failed);
    if (totals.skipped > 0) std::printf(", %d skipped", totals.skipped);
    std::printf("\n");
    if (totals.passed + totals.failed + totals.skipped == 0 && !options.filter.empty()) {
        std::fprintf(stderr, "perilune test: no test's name contains \"%s\"\n",
                     options.filter.c_str());
        return 1;
    }
    return totals.failed == 0 ? 0 : 1;
}

}  // namespace perilune::cli
