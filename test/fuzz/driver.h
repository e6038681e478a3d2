// The program around a fuzz target. A target includes this and defines the two functions.
//
//   with libFuzzer   clang++ -fsanitize=fuzzer,address -DPERILUNE_LIBFUZZER ...
//   without          build it as any program and give it files, folders of files, or a number of
//                    random runs: framing_fuzz test/fuzz/corpus/framing 1000000
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

namespace perilune::fuzz {

// Feeds one input, and aborts where a promise of the decoder is broken.
void run(const std::uint8_t* data, std::size_t size);
// An input that gets somewhere, for round `round` of a run without libFuzzer.
std::string random_input(std::mt19937_64& random, unsigned long round);

inline void check(bool condition) {
    if (!condition) std::abort();
}

inline void run_bytes(const std::string& bytes) {
    run(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
}

inline void run_file(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        std::fprintf(stderr, "can't read %s\n", path.c_str());
        std::exit(1);
    }
    run_bytes({std::istreambuf_iterator<char>(file), {}});
}

inline void run_folder(const std::filesystem::path& path) {
    unsigned long files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
        run_file(entry.path());
        ++files;
    }
    std::printf("%lu files\n", files);
}

}  // namespace perilune::fuzz

#ifdef PERILUNE_LIBFUZZER
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    perilune::fuzz::run(data, size);
    return 0;
}
#else
int main(int count, char** arguments) {
    for (int i = 1; i < count; ++i) {
        char* end = nullptr;
        const unsigned long rounds = std::strtoul(arguments[i], &end, 10);
        if (*end != '\0') {
            const std::filesystem::path path = arguments[i];
            std::filesystem::is_directory(path) ? perilune::fuzz::run_folder(path)
                                                : perilune::fuzz::run_file(path);
            continue;
        }
        std::mt19937_64 random(rounds);
        for (unsigned long round = 0; round < rounds; ++round) {
            perilune::fuzz::run_bytes(perilune::fuzz::random_input(random, round));
        }
        std::printf("%lu rounds\n", rounds);
    }
}
#endif
