#include "node/config_check.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "lua/config_script.h"
#include "lua/script_cache.h"
#include "node/config_lines.h"
#include "node/folders.h"

namespace perilune {

namespace {

namespace fs = std::filesystem;

// Names of the scripts that lie in a folder, for suggestions.
std::vector<std::string> scripts_in(const std::vector<std::string>& folders) {
    std::vector<std::string> names;
    for (const std::string& folder : folders) {
        std::error_code error;
        for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
            if (entry.path().extension() == ".lua") names.push_back(entry.path().stem().string());
        }
    }
    return names;
}

// The line in a message of Lua that begins with "<name>:<line>: ", and what follows it.
bool split_message(const std::string& message, const std::string& name, int& line,
                   std::string& text) {
    if (message.compare(0, name.size() + 1, name + ":") != 0) return false;
    char* end = nullptr;
    const long number = std::strtol(message.c_str() + name.size() + 1, &end, 10);
    if (number <= 0 || std::string_view(end).substr(0, 2) != ": ") return false;
    line = static_cast<int>(number);
    text = end + 2;
    return true;
}

class WorldCheck {
  public:
    WorldCheck(const Config& config, const std::function<bool(const std::string&)>& is_native,
               const ConfigProblems& problems)
        : config_(config),
          is_native_(is_native),
          problems_(problems),
          folders_(script_folders(config)),
          scripts_(folders_) {}

    void run() {
        check_folders();
        for (std::size_t i = 0; i < config_.services.size(); ++i) {
            check_service(config_.services[i], service_path(config_, i));
        }
        for (std::size_t i = 0; i < config_.trusted.size(); ++i) {
            const std::string path = "trusted" + path_step(static_cast<double>(i + 1));
            (void)find_script(config_.trusted[i], path);
        }
    }

  private:
    void check_folders() {
        for (std::size_t i = 0; i < config_.paths.size(); ++i) {
            const std::string folder = resolve_path(config_, config_.paths[i]);
            if (is_folder(folder)) continue;
            problems_("paths" + path_step(static_cast<double>(i + 1)),
                      folder + " is no folder. Make it, or remove it here.");
        }
        const std::string data = resolve_path(config_, config_.data);
        std::error_code error;
        if (data.empty() || (fs::exists(data, error) && !is_folder(data))) {
            problems_("data", "\"" + data + "\" is no folder. Give the path of one.");
        } else if (fs::path above = fs::absolute(data); true) {
            while (!fs::exists(above, error)) above = above.parent_path();
            if (!is_folder(above.string())) {
                problems_("data", data + " can't be made: " + above.string() + " is no folder.");
            } else if (access(above.c_str(), W_OK) != 0) {
                problems_("data", data + " can't be written. Change the path, or the owner of " +
                                      above.string() + ".");
            }
        }
        const std::string file = resolve_path(config_, config_.log.file);
        if (file.empty()) return;
        const std::string folder = fs::absolute(file).parent_path().string();
        if (!is_folder(folder)) {
            problems_("log.file", "the folder " + folder + " doesn't exist. Make it first.");
        } else if (is_folder(file)) {
            problems_("log.file", file + " is a folder. Give the path of a file.");
        } else if (access(is_file(file) ? file.c_str() : folder.c_str(), W_OK) != 0) {
            problems_("log.file", file + " can't be written. Change its owner, or the path.");
        }
    }

    void check_service(const ServiceConfig& service, const std::string& path) {
        if (service.script.empty()) return;  // told already
        const auto [place, is_new] = names_.try_emplace(service.name, path);
        if (!is_new) {
            problems_(path + ".name", "the name \"" + service.name + "\" is taken by " +
                                          place->second +
                                          ". Give one of them another: name = \"...\"");
        }
        if (is_native_ && is_native_(service.script)) return;
        const std::string file = find_script(service.script, path + ".script");
        if (file.empty()) return;
        std::string text;
        if (!read_text(file, text)) {
            problems_(path + ".script", file + " can't be read. Change its permissions.");
            return;
        }
        const std::string file_name = fs::path(file).filename().string();
        if (const std::string error = check_syntax(file_name, text); !error.empty()) {
            int line = 1;
            std::string message = error;
            (void)split_message(error, file_name, line, message);
            problems_(path + ".script",
                      file + ":" + std::to_string(line) + ": " + message + ". Correct the script.");
            return;
        }
        const auto find = [this](const std::string& module) -> std::string {
            if (module.compare(0, 8, "perilune") == 0) return {};
            const Result<std::string> found = scripts_.find(module);
            return found.ok() ? found.value() : std::string();
        };
        check_declared(declared_options(file, text, find), service.options, path + ".options",
                       problems_);
    }

    // Its file, or "" and the problem has been told.
    std::string find_script(const std::string& script, const std::string& path) {
        if (is_native_ && is_native_(script)) return {};
        Result<std::string> found = scripts_.find(script);
        if (found.ok()) return found.value();
        if (found.status().code() != StatusCode::not_found) {
            problems_(path, found.status().message());
            return {};
        }
        std::string hint = did_you_mean(script, scripts_in(folders_));
        if (hint.empty()) hint = " Write it, or correct the name.";
        std::string places;
        std::string relative = script;
        std::replace(relative.begin(), relative.end(), '.', '/');
        for (const std::string& folder : folders_) {
            if (!is_folder(folder)) continue;
            places += (places.empty() ? "" : ", ") + folder + "/" + relative + ".lua";
        }
        problems_(path, "there is no script \"" + script + "\"" +
                            (places.empty() ? "" : " (looked for " + places + ")") + "." + hint);
        return {};
    }

    const Config& config_;
    const std::function<bool(const std::string&)>& is_native_;
    const ConfigProblems& problems_;
    const std::vector<std::string> folders_;
    const ScriptCache scripts_;
    std::map<std::string, std::string> names_;  // and where each was given
};

struct Problem {
    int line;
    std::string text;
};

}  // namespace

void complete(Config& config) {
    for (ServiceConfig& service : config.services) {
        if (service.name.empty()) service.name = service.script;
    }
}

std::string home_problem(const Config& config) {
    const std::string home = find_home(config);
    if (!home.empty() && is_folder(home + "/lualib")) return {};
    if (!config.home.empty()) {
        return "there is no lualib/ in " + home + ", which was given as Config::home";
    }
    return "the engine's lualib/ is neither above the program nor in " + installed_home() +
           ". Run `make install`, or give its folder: load_config(file, home) or Config::home";
}

void check_world(const Config& config, const std::function<bool(const std::string&)>& is_native,
                 const ConfigProblems& problems) {
    WorldCheck(config, is_native, problems).run();
}

ConfigCheck load_config(const std::string& file, const std::string& home) {
    ConfigCheck check;
    std::string text;
    if (is_folder(file) || !read_text(file, text)) {
        check.problems.push_back(file + ": it can't be read. Give the path of a config file: " +
                                 "perilune <config.lua>");
        return check;
    }
    const std::string folder = fs::path(file).parent_path().string();
    const std::string file_name = fs::path(file).filename().string();  // Lua shortens long ones
    const ConfigScriptResult script = run_config(file_name, text, folder);
    if (!script.error.empty()) {
        int line = 1;
        std::string message = script.error;
        (void)split_message(script.error, file_name, line, message);
        check.problems.push_back(file + ":" + std::to_string(line) + ": " + message);
        return check;
    }

    const ConfigLines lines(text);
    std::vector<Problem> found;
    std::set<std::string> told;
    const ConfigProblems note = [&](const std::string& path, const std::string& problem) {
        // A value that was left out is not missing, too.
        if (told.count(path) != 0) return;
        const std::string key = path.empty() ? "" : path + ": ";
        found.push_back({lines.line(path), key + problem});
    };
    for (const ConfigLines::Repeated& key : lines.repeated()) {
        note(key.path, "it is given twice, first on line " + std::to_string(key.first_line) +
                           ". Remove one of them.");
    }
    for (const ConfigScriptResult::LeftOut& left_out : script.left_out) {
        std::string path = left_out.path;
        if (!path.empty() && path[0] == '.') path.erase(0, 1);
        note(path, "the value " + left_out.what +
                       ". Give nil, booleans, numbers, strings or tables of these.");
        told.insert(path);
    }
    check.config = read_config_value(script.value, note);
    check.config.base = folder.empty() ? "." : folder;
    check.config.home = home;
    for (const auto& [path, line] : lines.all()) {
        check.config.origins[path] = file + ":" + std::to_string(line);
    }
    complete(check.config);
    check_limits(check.config, note);
    // Not the file's fault.
    if (std::string problem = home_problem(check.config); !problem.empty()) {
        check.problems.push_back(std::move(problem));
        return check;
    }
    check_world(check.config, {}, note);
    for (ServiceConfig& service : check.config.services) {
        service.origin =
            file + ":" + std::to_string(lines.line(service.origin)) + ": " + service.origin;
    }
    std::stable_sort(found.begin(), found.end(), [](const Problem& left, const Problem& right) {
        return left.line < right.line;
    });
    for (const Problem& problem : found) {
        check.problems.push_back(file + ":" + std::to_string(problem.line) + ": " + problem.text);
    }
    return check;
}

}  // namespace perilune
