#include "cli/arguments.h"

#include <charconv>

namespace perilune::cli {

bool Arguments::take(const std::string& name, std::string& value) {
    const std::string option = "--" + name;
    for (std::size_t i = 0; i < words_.size(); ++i) {
        const auto place = words_.begin() + static_cast<std::ptrdiff_t>(i);
        if (words_[i].compare(0, option.size() + 1, option + "=") == 0) {
            value = words_[i].substr(option.size() + 1);
            words_.erase(place);
            return true;
        }
        if (words_[i] != option) continue;
        if (i + 1 == words_.size()) {
            problem_ = option + " wants a value";
            words_.erase(place);
            return false;
        }
        value = words_[i + 1];
        words_.erase(place, place + 2);
        return true;
    }
    return false;
}

std::string Arguments::text(const std::string& name, const std::string& fallback) {
    std::string value;
    return take(name, value) ? value : fallback;
}

std::int64_t Arguments::number(const std::string& name, std::int64_t fallback, std::int64_t minimum,
                               std::int64_t maximum) {
    std::string value;
    if (!take(name, value)) return fallback;
    std::int64_t number = 0;
    const char* const end = value.data() + value.size();
    const auto [read_to, error] = std::from_chars(value.data(), end, number);
    if (error == std::errc() && read_to == end && number >= minimum && number <= maximum) {
        return number;
    }
    problem_ = "--" + name + " wants a whole number from " + std::to_string(minimum) + " to " +
               std::to_string(maximum) + ", not \"" + value + "\"";
    return fallback;
}

bool Arguments::flag(const std::string& name) {
    for (auto word = words_.begin(); word != words_.end(); ++word) {
        if (*word != (name.size() == 1 ? "-" : "--") + name) continue;
        words_.erase(word);
        return true;
    }
    return false;
}

std::string Arguments::problem(bool strict) const {
    if (!problem_.empty() || !strict) return problem_;
    for (const std::string& word : words_) {
        if (word.size() > 1 && word[0] == '-') return "there is no option " + word;
    }
    return {};
}

}  // namespace perilune::cli
