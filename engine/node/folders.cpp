#include "node/folders.h"

#include <filesystem>
#include <system_error>

namespace perilune {

namespace {

bool holds_library(const std::filesystem::path& folder) {
    return is_file((folder / "lualib" / "meta" / "perilune.lua").string());
}

}  // namespace

bool is_folder(const std::string& path) {
    std::error_code error;
    return std::filesystem::is_directory(path, error);
}

bool is_file(const std::string& path) {
    std::error_code error;
    return std::filesystem::is_regular_file(path, error);
}

std::string resolve_path(const Config& config, const std::string& path) {
    if (path.empty() || path.front() == '/' || config.base.empty() || config.base == ".") {
        return path;
    }
    std::string found = (std::filesystem::path(config.base) / path).lexically_normal().string();
    if (found.size() > 1 && found.back() == '/') found.pop_back();  // of "."
    return found;
}

std::string find_home(const Config& config) {
    if (!config.home.empty()) return config.home;
    std::error_code error;
    std::filesystem::path folder = std::filesystem::read_symlink("/proc/self/exe", error);
    while (!error && folder.has_relative_path()) {
        folder = folder.parent_path();
        if (holds_library(folder / "share" / "perilune")) return folder / "share" / "perilune";
        if (holds_library(folder)) return folder;
    }
    // A host program that lies elsewhere: where `make install` puts it.
    return holds_library(installed_home()) ? installed_home() : "";
}

std::string installed_home() { return PERILUNE_DATA; }

std::vector<std::string> script_folders(const Config& config) {
    std::vector<std::string> folders;
    const auto add = [&folders](const std::string& folder) {
        for (const std::string& known : folders) {
            if (known == folder) return;
        }
        folders.push_back(folder);
    };
    for (const std::string& path : config.paths) add(resolve_path(config, path));
    add(resolve_path(config, "service"));
    add(resolve_path(config, "lualib"));
    if (const std::string home = find_home(config); !home.empty()) add(home + "/service");
    return folders;
}

}  // namespace perilune
