#include "node/config_schema.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <utility>

#include "lua/config_script.h"

namespace perilune {

namespace {

constexpr int kHour = 3'600'000;  // ms
constexpr int kDay = 86'400'000;  // ms
constexpr const char* kLevels = "trace|debug|info|warn|error|off";

// A field as ConfigOption has it: Owner's member by the expression after the arrow.
#define FIELD(Owner, Type, member) +[](Owner& owner) -> Type& { return owner.member; }

}  // namespace

const std::vector<ConfigOption<Config>>& config_options() {
    // clang-format off
    static const std::vector<ConfigOption<Config>> options = {
        {"name", FIELD(Config, std::string, name),
         "the node's name in logs and for other nodes"},
        {"env", FIELD(Config, Value, env),
         "a table that services read with perilune.env(name)"},
        {"trusted", FIELD(Config, StringList, trusted),
         "scripts that get the whole of Lua instead of the allow-list"},
        {"paths", FIELD(Config, StringList, paths),
         "folders searched for scripts, before service/ and lualib/ beside the file"},
        {"data", FIELD(Config, std::string, data),
         "folder below which perilune.file may read and write"},
        {"workers", FIELD(Config, int, workers),
         "threads that run services; 0: one a core", "threads", 0, 256},
        {"spare_workers", FIELD(Config, int, spare_workers),
         "more threads while all workers are stuck", "threads", 0, 64},
        {"watchdog.report_ms", FIELD(Config, int, watchdog.report_ms),
         "a dispatch that takes longer is reported", "ms", 1, kHour},
        {"watchdog.interrupt_ms", FIELD(Config, int, watchdog.interrupt_ms),
         "a request that takes longer is ended", "ms", 10, kHour},
        {"watchdog.signal", FIELD(Config, int, watchdog.signal),
         "the real-time signal that interrupts, 35 to 64; 0: SIGRTMIN + 4", "", 0, 64},
        {"blocking.threads", FIELD(Config, int, blocking.threads),
         "threads for work that would block a worker; 0: one a core, at most 4", "threads", 0, 256},
        {"blocking.queue", FIELD(Config, int, blocking.queue),
         "pieces of work that may wait for them", "", 1, 1'000'000},
        {"call_limit_ms", FIELD(Config, int, call_limit_ms),
         "how long perilune.call waits; 0: for ever", "ms", 0, kDay},
        {"start_limit_ms", FIELD(Config, int, start_limit_ms),
         "how long on_start may take", "ms", 100, kDay},
        {"stop_limit_ms", FIELD(Config, int, stop_limit_ms),
         "how long stopping the node may take", "ms", 100, kDay},
        {"mailbox.messages", FIELD(Config, int, mailbox.messages),
         "messages that may wait for a service", "", 16, 1'000'000},
        {"mailbox.mb", FIELD(Config, int, mailbox.mb),
         "... and their size", "MB", 1, 65'536},
        {"mailbox.node_mb", FIELD(Config, int, mailbox.node_mb),
         "size of what waits in all mailboxes", "MB", 1, 1'048'576},
        {"lua.memory_mb", FIELD(Config, int, lua.memory_mb),
         "Lua memory of a service, or of a group of light ones", "MB", 1, 65'536},
        {"lua.jit", FIELD(Config, bool, lua.jit),
         "whether services are compiled to machine code"},
        {"lua.jit_vms", FIELD(Config, int, lua.jit_vms),
         "VMs that may have the compiler at a time", "", 1, 4096},
        {"lua.jit_after_ms", FIELD(Config, int, lua.jit_after_ms),
         "processor time after which a VM gets the compiler", "ms", 0, kHour},
        {"lua.group_size", FIELD(Config, int, lua.group_size),
         "light services to a VM", "", 1, 4096},
        {"log.level", FIELD(Config, std::string, log.level),
         "what is logged", "", 0, 0, kLevels},
        {"log.levels", FIELD(Config, StringMap, log.levels),
         "levels of single services, by name", "", 0, 0, kLevels},
        {"log.format", FIELD(Config, std::string, log.format),
         "how records look", "", 0, 0, "text|json"},
        {"log.stream", FIELD(Config, std::string, log.stream),
         "where they go, besides the file", "", 0, 0, "stderr|stdout|none"},
        {"log.file", FIELD(Config, std::string, log.file),
         "a file that they go to; its folder must exist"},
        {"log.file_mb", FIELD(Config, int, log.file_mb),
         "a larger file is rotated", "MB", 1, 65'536},
        {"log.files", FIELD(Config, int, log.files),
         "old files kept", "", 0, 1000},
        {"log.queue", FIELD(Config, int, log.queue),
         "records that may wait to be written", "", 64, 1'000'000},
    };
    // clang-format on
    return options;
}

const std::vector<ConfigOption<ServiceConfig>>& service_options() {
    // clang-format off
    static const std::vector<ConfigOption<ServiceConfig>> options = {
        {"script", FIELD(ServiceConfig, std::string, script),
         "name of a file on the script path, without .lua"},
        {"name", FIELD(ServiceConfig, std::string, name),
         "what others call it by; default: the script's name"},
        {"options", FIELD(ServiceConfig, Value, options),
         "given to its on_start"},
        {"group", FIELD(ServiceConfig, std::string, group),
         "makes it light: it shares a VM with others of this group"},
        {"memory_mb", FIELD(ServiceConfig, int, memory_mb),
         "its limit of Lua memory; 0: lua.memory_mb", "MB", 0, 65'536},
        {"mailbox", FIELD(ServiceConfig, int, mailbox),
         "messages that may wait for it; 0: mailbox.messages", "", 0, 1'000'000},
    };
    // clang-format on
    return options;
}

#undef FIELD

namespace {

// --- words ---

std::string number_text(double number) {
    char text[40];
    std::snprintf(text, sizeof text, "%.14g", number);
    return text;
}

std::string quoted(std::string_view text) {
    return '"' + std::string(text.substr(0, 60)) + (text.size() > 60 ? "..." : "") + '"';
}

// What a value is, for "... but is <this>".
std::string description(const Value& value) {
    if (value.is_nil()) return "nil";
    if (value.is_boolean()) return value.boolean() ? "true" : "false";
    if (value.is_number()) return "the number " + number_text(value.number());
    if (value.is_string()) return "the string " + quoted(value.string());
    return "a table";
}

std::vector<std::string> split(std::string_view text, char separator) {
    std::vector<std::string> parts;
    while (!text.empty()) {
        const std::size_t end = text.find(separator);
        parts.emplace_back(text.substr(0, end));
        if (end == std::string_view::npos) break;
        text.remove_prefix(end + 1);
    }
    return parts;
}

std::string listed(const std::vector<std::string>& words) {
    std::string text;
    for (std::size_t i = 0; i < words.size(); ++i) {
        if (i > 0) text += i + 1 == words.size() ? " or " : ", ";
        text += words[i];
    }
    return text;
}

std::string range_text(double minimum, double maximum, std::string_view unit) {
    std::string text = "from " + number_text(minimum) + " to " + number_text(maximum);
    if (!unit.empty()) text += " " + std::string(unit);
    return text;
}

// Insertions, deletions, replacements and swaps of neighbours that make one of the other.
std::size_t edit_distance(std::string_view left, std::string_view right) {
    std::vector<std::size_t> before(right.size() + 1);
    std::vector<std::size_t> last(right.size() + 1);
    std::vector<std::size_t> row(right.size() + 1);
    std::iota(row.begin(), row.end(), std::size_t{0});
    for (std::size_t i = 1; i <= left.size(); ++i) {
        before = std::exchange(last, row);
        row[0] = i;
        for (std::size_t j = 1; j <= right.size(); ++j) {
            const std::size_t replaced = last[j - 1] + (left[i - 1] == right[j - 1] ? 0 : 1);
            row[j] = std::min({row[j - 1] + 1, last[j] + 1, replaced});
            if (i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1]) {
                row[j] = std::min(row[j], before[j - 2] + 1);
            }
        }
    }
    return row.back();
}

std::string joined(const std::string& path, const std::string& step) {
    if (path.empty() && step[0] == '.') return step.substr(1);
    return path + step;
}

std::string step_of(const Value& key) {
    if (key.is_string()) return path_step(key.string());
    if (key.is_number()) return path_step(key.number());
    return path_step(key.boolean() ? "true" : "false");
}

// --- one option ---

template <typename Owner>
class OptionReader {
  public:
    using Option = ConfigOption<Owner>;

    OptionReader(const Option& option, Owner& owner, std::string path,
                 const ConfigProblems& problems)
        : option_(option), owner_(owner), path_(std::move(path)), problems_(problems) {}

    // Sets the member from `value`.
    void read(const Value& value) {
        std::visit([&](auto field) { read_into(field(owner_), value); }, option_.field);
    }

    // Checks the member's limits.
    void check() {
        std::visit([&](auto field) { check_member(field(owner_)); }, option_.field);
    }

  private:
    void wrong_type(const char* wanted, const Value& value) {
        problems_(path_, std::string("it has to be ") + wanted + ", but is " + description(value) +
                             ". " + remedy());
    }

    void read_into(bool& member, const Value& value) {
        if (!value.is_boolean()) return wrong_type("true or false", value);
        member = value.boolean();
    }

    void read_into(int& member, const Value& value) {
        const double number = value.number();
        if (!value.is_number()) return wrong_type("a number", value);
        if (number != std::floor(number)) return wrong_type("a whole number", value);
        if (!in_range(number)) return out_of_range(number);
        member = static_cast<int>(number);
    }

    void read_into(std::string& member, const Value& value) {
        if (!value.is_string()) return wrong_type("a string", value);
        member = value.string();
    }

    void read_into(Value& member, const Value& value) {
        const bool any = std::string_view(option_.key) == "options";
        if (!any && !value.is_table()) return wrong_type("a table", value);
        member = value;
    }

    void read_into(StringList& member, const Value& value) {
        if (!value.is_table()) return wrong_type("a list of strings", value);
        for (const auto& [key, item] : value.table()) {
            if (!key.is_number() || !item.is_string()) {
                problems_(path_ + step_of(key),
                          "a list of strings is wanted here, but there is " +
                              (key.is_number() ? description(item) : "a key " + step_of(key)) +
                              ". Write: " + option_.key + " = { \"...\", \"...\" }");
                continue;
            }
            member.push_back(item.string());
        }
    }

    void read_into(StringMap& member, const Value& value) {
        if (!value.is_table()) return wrong_type("a table", value);
        for (const auto& [key, item] : value.table()) {
            if (!key.is_string() || !item.is_string()) {
                problems_(path_ + step_of(key), "names and strings are wanted here, but there is " +
                                                    description(item) + ". Write: " + option_.key +
                                                    " = { gateway = \"debug\" }");
                continue;
            }
            member[key.string()] = item.string();
        }
    }

    bool in_range(double number) const {
        return number >= option_.minimum && number <= option_.maximum;
    }

    void out_of_range(double number) {
        problems_(path_, number_text(number) + " is out of range. " + remedy());
    }

    void check_member(bool&) {}
    void check_member(Value&) {}
    void check_member(StringList&) {}
    void check_member(int& member) {
        if (!in_range(member)) out_of_range(member);
    }
    void check_member(std::string& member) { check_choice(path_, member); }
    void check_member(StringMap& member) {
        for (const auto& [name, word] : member) check_choice(path_ + path_step(name), word);
    }

    void check_choice(const std::string& path, const std::string& word) {
        const std::vector<std::string> words = split(option_.choices, '|');
        if (words.empty() || std::find(words.begin(), words.end(), word) != words.end()) return;
        problems_(path, quoted(word) + " is none of the choices." + did_you_mean(word, words) +
                            " Give " + listed(words) + ".");
    }

    // "Give a whole number from 0 to 256 threads; the default is 0."
    std::string remedy() const {
        Owner fresh;
        return std::visit([&](auto field) { return remedy_for(field(fresh)); }, option_.field);
    }
    std::string remedy_for(bool& fallback) const {
        return std::string("Give true or false; the default is ") + (fallback ? "true." : "false.");
    }
    std::string remedy_for(int& fallback) const {
        return "Give a whole number " + range_text(option_.minimum, option_.maximum, option_.unit) +
               "; the default is " + std::to_string(fallback) + ".";
    }
    std::string remedy_for(std::string& fallback) const {
        if (*option_.choices != '\0') return "Give " + listed(split(option_.choices, '|')) + ".";
        return std::string("Write: ") + last_word() + " = \"" +
               (fallback.empty() ? "..." : fallback) + "\"";
    }
    std::string remedy_for(StringList&) const {
        return std::string("Write: ") + last_word() + " = { \"...\" }";
    }
    std::string remedy_for(StringMap&) const {
        return std::string("Write: ") + last_word() + " = { gateway = \"debug\" }";
    }
    std::string remedy_for(Value&) const {
        return std::string("Write: ") + last_word() + " = { ... }";
    }
    std::string last_word() const {
        const std::string key = option_.key;
        return key.substr(key.find_last_of('.') + 1);
    }

    const Option& option_;
    Owner& owner_;
    const std::string path_;
    const ConfigProblems& problems_;
};

// --- a table of options ---

template <typename Owner>
std::vector<std::string> keys_of(const std::vector<ConfigOption<Owner>>& options) {
    std::vector<std::string> keys;
    for (const ConfigOption<Owner>& option : options) keys.emplace_back(option.key);
    return keys;
}

// What an unknown key was meant to be: one of its siblings, or one of the same name elsewhere.
std::string unknown_key(const std::string& section, const std::string& key,
                        std::vector<std::string> known) {
    known.emplace_back("services");
    std::vector<std::string> siblings;
    for (const std::string& full : known) {
        if (full.compare(0, section.size(), section) != 0) continue;
        const std::string rest = full.substr(section.size());
        siblings.push_back(rest.substr(0, rest.find('.')));
    }
    std::string hint = did_you_mean(key, siblings);
    for (const std::string& full : known) {
        if (hint.empty() && full.substr(full.find_last_of('.') + 1) == key) {
            hint = " Did you mean \"" + full + "\"?";
        }
    }
    if (hint.empty()) hint = " Remove it; `perilune help config` lists all options.";
    return "there is no such option." + hint;
}

template <typename Owner>
void read_section(const std::vector<ConfigOption<Owner>>& options, const std::string& section,
                  const Value& table, const std::string& path, Owner& owner,
                  const ConfigProblems& problems,
                  const std::function<bool(const std::string& key, const Value& value)>& other) {
    for (const auto& [key, value] : table.table()) {
        const std::string place = joined(path, step_of(key));
        if (!key.is_string()) {
            problems(place, "there is a value without a name. Write: name = value");
            continue;
        }
        const std::string full = section + key.string();
        const auto same = [&](const ConfigOption<Owner>& option) { return full == option.key; };
        const auto found = std::find_if(options.begin(), options.end(), same);
        if (found != options.end()) {
            OptionReader<Owner>(*found, owner, place, problems).read(value);
            continue;
        }
        const std::string inner = full + ".";
        const bool is_section =
            std::any_of(options.begin(), options.end(), [&](const ConfigOption<Owner>& option) {
                return std::string_view(option.key).substr(0, inner.size()) == inner;
            });
        if (is_section && value.is_table()) {
            read_section(options, inner, value, place, owner, problems, {});
        } else if (is_section) {
            problems(place, "it has to be a table, but is " + description(value) +
                                ". Write: " + key.string() + " = { ... }");
        } else if (!other || !other(key.string(), value)) {
            problems(place, unknown_key(section, key.string(), keys_of(options)));
        }
    }
}

void read_services(const Value& list, Config& config, const ConfigProblems& problems) {
    if (!list.is_table()) {
        problems("services", "it has to be a list, but is " + description(list) +
                                 ". Write: services = { { script = \"...\" } }");
        return;
    }
    for (const auto& [key, item] : list.table()) {
        const std::string path = "services" + step_of(key);
        if (!key.is_number() || !item.is_table()) {
            problems(path, (key.is_number()
                                ? "a service has to be a table, but this is " + description(item)
                                : std::string("services is a list, without names")) +
                               ". Write: { script = \"...\", name = \"...\" }");
            continue;
        }
        ServiceConfig service;
        read_section(service_options(), "", item, path, service, problems, {});
        if (item["script"].is_nil()) {
            problems(path,
                     "the service has no script. Write: script = \"...\", the name of a file "
                     "without .lua");
        }
        service.origin = path;
        config.services.push_back(std::move(service));
    }
}

// --- declared options of a script ---

bool has_type(const Value& value, std::string_view type) {
    if (type == "boolean") return value.is_boolean();
    if (type == "number") return value.is_number();
    if (type == "integer") {
        return value.is_number() && value.number() == std::floor(value.number());
    }
    if (type == "string") return value.is_string();
    if (type == "table") return value.is_table();
    return true;
}

// A list of tables, each with the options of `rule["items"]`.
void check_items(const Value& rule, const Value& list, const std::string& path,
                 const ConfigProblems& problems) {
    for (const auto& [key, item] : list.table()) {
        const std::string place = joined(path, step_of(key));
        if (!key.is_number()) {
            problems(place, "it is no part of a list. Write: { { ... }, { ... } }");
        } else if (!item.is_table()) {
            problems(place, "it has to be a table, but is " + description(item) + ".");
        } else {
            check_declared(rule["items"], item, place, problems);
        }
    }
}

void check_declared_one(const Value& rule, const Value& value, const std::string& path,
                        const ConfigProblems& problems) {
    const std::string type = rule.is_string() ? rule.string() : rule["type"].string();
    const Value& minimum = rule["min"];
    const Value& maximum = rule["max"];
    const std::string wanted = type == "integer" ? "a whole number" : "a " + type;
    std::string remedy = ". Give " + wanted;
    if (minimum.is_number() && maximum.is_number()) {
        remedy += " " + range_text(minimum.number(), maximum.number(), rule["unit"].string());
    }
    if (!rule["default"].is_nil() && !rule["default"].is_table()) {
        remedy += "; the default is " +
                  description(rule["default"]).substr(rule["default"].is_number() ? 11 : 0);
    }
    remedy += ".";
    if (!has_type(value, type)) {
        problems(path, "it has to be " + wanted + ", but is " + description(value) + remedy);
        return;
    }
    if ((minimum.is_number() && value.number() < minimum.number()) ||
        (maximum.is_number() && value.number() > maximum.number())) {
        problems(path, number_text(value.number()) + " is out of range" + remedy);
    }
    if (rule["items"].is_table()) check_items(rule, value, path, problems);
    std::vector<std::string> words;
    for (const auto& [key, word] : rule["choices"].table()) words.push_back(word.string());
    if (!words.empty() && std::find(words.begin(), words.end(), value.string()) == words.end()) {
        problems(path, description(value) + " is none of the choices." +
                           did_you_mean(value.string(), words) + " Give " + listed(words) + ".");
    }
}

}  // namespace

std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates) {
    const std::size_t most = std::max<std::size_t>(1, std::min<std::size_t>(3, word.size() / 3));
    std::size_t best = most + 1;
    std::string nearest;
    for (const std::string& candidate : candidates) {
        const std::size_t distance = edit_distance(word, candidate);
        if (distance < best) {
            best = distance;
            nearest = candidate;
        }
    }
    return nearest.empty() ? "" : " Did you mean \"" + nearest + "\"?";
}

Config read_config_value(const Value& root, const ConfigProblems& problems) {
    Config config;
    read_section(config_options(), "", root, "", config, problems,
                 [&](const std::string& key, const Value& value) {
                     if (key != "services") return false;
                     read_services(value, config, problems);
                     return true;
                 });
    return config;
}

std::string service_path(const Config& config, std::size_t index) {
    const std::string& origin = config.services[index].origin;
    if (!origin.empty()) return origin;
    return "services" + path_step(static_cast<double>(index + 1));
}

void check_limits(const Config& config, const ConfigProblems& problems) {
    Config copy = config;  // fields are reached through references that may change
    for (const ConfigOption<Config>& option : config_options()) {
        OptionReader<Config>(option, copy, option.key, problems).check();
    }
    for (std::size_t i = 0; i < copy.services.size(); ++i) {
        const std::string path = service_path(config, i);
        for (const ConfigOption<ServiceConfig>& option : service_options()) {
            OptionReader<ServiceConfig>(option, copy.services[i], path + "." + option.key, problems)
                .check();
        }
        if (copy.services[i].name.size() > 128) {
            problems(path + ".name", "it is longer than 128 bytes. Give a shorter name.");
        }
    }
    const int signal = config.watchdog.signal;
    if (signal > 0 && signal < 35) {
        problems("watchdog.signal", std::to_string(signal) +
                                        " is no real-time signal. Give 35 to 64, or 0 for "
                                        "SIGRTMIN + 4.");
    }
    constexpr std::string_view kLetters =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    if (config.name.empty() || config.name.size() > 64 ||
        config.name.find_first_not_of(kLetters) != std::string::npos) {
        problems("name", quoted(config.name) +
                             " is no name of a node. Give 1 to 64 letters, digits, '-', '_' or "
                             "'.'.");
    }
}

void check_declared(const Value& declared, const Value& options, const std::string& path,
                    const ConfigProblems& problems) {
    if (!declared.is_table()) return;
    std::vector<std::string> names;
    for (const auto& [name, rule] : declared.table()) names.push_back(name.string());
    if (!options.is_nil() && !options.is_table()) {
        problems(path, "it has to be a table, but is " + description(options) +
                           ". Write: options = { ... }");
        return;
    }
    for (const auto& [key, value] : options.table()) {
        const Value& rule = declared[key.string()];
        if (key.is_string() && !rule.is_nil()) {
            check_declared_one(rule, value, joined(path, step_of(key)), problems);
            continue;
        }
        std::string hint = key.is_string() ? did_you_mean(key.string(), names) : "";
        if (hint.empty())
            hint = names.empty() ? " It takes none." : " It takes " + listed(names) + ".";
        problems(joined(path, step_of(key)), "there is no such option." + hint);
    }
    for (const auto& [name, rule] : declared.table()) {
        if (rule["required"].boolean() && options[name.string()].is_nil()) {
            problems(path, "the option " + quoted(name.string()) + " is missing. " +
                               rule["meaning"].string());
        }
    }
}

std::string describe_config() {
    std::string text;
    const auto row = [&text](const std::string& key, const std::string& limits,
                             const std::string& meaning) {
        char line[300];
        std::snprintf(line, sizeof line, "%-22s  %-40s  %s\n", key.c_str(), limits.c_str(),
                      meaning.c_str());
        text += line;
    };
    const auto limits_of = [](const auto& option, auto& fresh) {
        return std::visit(
            [&](auto field) -> std::string {
                using Member = std::remove_reference_t<decltype(field(fresh))>;
                const Member& member = field(fresh);
                if constexpr (std::is_same_v<Member, bool>) {
                    return std::string("boolean, ") + (member ? "true" : "false");
                } else if constexpr (std::is_same_v<Member, int>) {
                    return number_text(option.minimum) + " to " + number_text(option.maximum) +
                           (*option.unit == '\0' ? "" : " ") + option.unit + ", " +
                           std::to_string(member);
                } else if constexpr (std::is_same_v<Member, std::string>) {
                    return std::string(*option.choices == '\0' ? "string" : option.choices) +
                           ", \"" + member + "\"";
                } else if constexpr (std::is_same_v<Member, StringList>) {
                    return "list of strings, {}";
                } else {
                    return "table, {}";
                }
            },
            option.field);
    };
    row("option", "type or limits, default", "meaning");
    Config config;
    for (const auto& option : config_options()) {
        row(option.key, limits_of(option, config), option.meaning);
    }
    row("services", "list, {}", "what the node starts, in order; each is a table of");
    ServiceConfig service;
    for (const auto& option : service_options()) {
        row(std::string("  ") + option.key, limits_of(option, service), option.meaning);
    }
    return text;
}

}  // namespace perilune
