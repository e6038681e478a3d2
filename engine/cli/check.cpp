#include <cstdio>

#include "cli/commands.h"
#include "perilune/config.h"

namespace perilune::cli {

int check(Arguments& arguments) {
    if (const std::string problem = arguments.problem(); !problem.empty()) {
        return misuse("check", problem);
    }
    if (arguments.rest().size() > 1) return misuse("check", "it checks one file");
    const std::string file = arguments.rest().empty() ? "config.lua" : arguments.rest()[0];
    const ConfigCheck result = load_config(file);
    for (const std::string& problem : result.problems) {
        std::fprintf(stderr, "%s\n", problem.c_str());
    }
    if (!result.ok()) return 1;
    const std::size_t services = result.config.services.size();
    std::printf("%s: OK, %zu %s\n", file.c_str(), services, services == 1 ? "service" : "services");
    return 0;
}

}  // namespace perilune::cli
