// Tests of perilune.file that need what its scripts cannot make: links, pipes, other modes.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "lua/lua_file.h"

namespace perilune {
namespace {

namespace fs = std::filesystem;

class FileLibrary : public testing::Test {
  protected:
    FileLibrary() : L(luaL_newstate()) {
        char name[] = "/tmp/perilune_file_XXXXXX";
        folder_ = ::mkdtemp(name);
        fs::create_directory(folder_ / "outside");
        put("outside/secret", "secret");
        luaL_openlibs(L);
        push_file_library(L, data().c_str());
        lua_setglobal(L, "file");
    }
    ~FileLibrary() override {
        lua_close(L);
        fs::remove_all(folder_);
    }

    fs::path data() const { return folder_ / "data"; }
    void put(const fs::path& path, const std::string& text) const {
        std::ofstream(folder_ / path, std::ios::binary) << text;
    }

    // What an expression gives, values separated by spaces.
    std::string run(const std::string& expression) {
        const std::string code = "local t = {" + expression +
                                 "} for i = 1, 3 do t[i] = tostring(t[i]) end "
                                 "return table.concat(t, ' ')";
        lua_settop(L, 0);
        if (luaL_dostring(L, code.c_str()) != 0)
            return std::string("error: ") + lua_tostring(L, -1);
        return lua_tostring(L, -1);
    }
    std::string code_of(const std::string& expression) {
        return run("(select(3, " + expression + "))").substr(0, 40);
    }

    lua_State* const L;
    fs::path folder_;
};

TEST_F(FileLibrary, TheFirstWriteMakesTheDataFolder) {
    EXPECT_EQ(code_of("file.read 'a'"), "not_found nil nil");
    EXPECT_FALSE(fs::exists(data()));
    EXPECT_EQ(run("file.write('a', 'x')"), "true nil nil");
    EXPECT_EQ(run("file.read 'a'"), "x nil nil");
}

TEST_F(FileLibrary, SymbolicLinksLeadNowhere) {
    run("file.mkdir 'sub'");
    fs::create_directory_symlink(folder_ / "outside", data() / "out");
    fs::create_directory_symlink("sub", data() / "inner");
    fs::create_symlink(folder_ / "outside/secret", data() / "link");
    fs::create_symlink("nowhere", data() / "dangling");

    for (const char* path : {"'out/secret'", "'link'", "'inner/a'", "'dangling'"}) {
        const std::string p = path;
        EXPECT_EQ(code_of("file.read(" + p + ")"), "invalid nil nil") << p;
        EXPECT_EQ(code_of("file.append(" + p + ", 'x')"), "invalid nil nil") << p;
    }
    EXPECT_EQ(code_of("file.write('out/new', 'x')"), "invalid nil nil");
    EXPECT_EQ(code_of("file.remove 'out/secret'"), "invalid nil nil");
    EXPECT_EQ(code_of("file.mkdir 'out/new'"), "invalid nil nil");
    EXPECT_EQ(code_of("file.mkdir 'out'"), "invalid nil nil");
    EXPECT_EQ(code_of("file.list 'out'"), "invalid nil nil");
    EXPECT_EQ(code_of("file.size 'link'"), "invalid nil nil");
    EXPECT_EQ(run("file.exists 'link'"), "false nil nil");
    EXPECT_EQ(run("unpack(file.list())"), "sub/ nil nil");

    // What replaces or removes a link acts on the link.
    EXPECT_EQ(run("file.write('link', 'mine')"), "true nil nil");
    EXPECT_FALSE(fs::is_symlink(data() / "link"));
    EXPECT_EQ(run("file.remove 'out'"), "true nil nil");
    EXPECT_EQ(fs::file_size(folder_ / "outside/secret"), 6u);
    EXPECT_EQ(std::distance(fs::directory_iterator(folder_ / "outside"), {}), 1);
}

TEST_F(FileLibrary, PipesDontBlock) {
    run("file.mkdir 'sub'");
    ASSERT_EQ(::mkfifo((data() / "pipe").c_str(), 0600), 0);
    EXPECT_EQ(code_of("file.read 'pipe'"), "invalid nil nil");
    EXPECT_EQ(code_of("file.append('pipe', 'x')"), "invalid nil nil");
    EXPECT_EQ(run("file.exists 'pipe'"), "false nil nil");
}

TEST_F(FileLibrary, AFolderThatIsSwappedForALinkDoesNotLeadOutside) {
    run("file.mkdir 'sub'");
    put("data/sub/secret", "mine");
    fs::create_directory_symlink(folder_ / "outside", data() / "link");
    std::atomic<bool> done{false};
    std::thread swapper([&] {
        while (!done) {
            ::renameat2(AT_FDCWD, (data() / "sub").c_str(), AT_FDCWD, (data() / "link").c_str(),
                        RENAME_EXCHANGE);
        }
    });
    for (int i = 0; i < 2000; ++i) {
        EXPECT_NE(run("file.read 'sub/secret'"), "secret nil nil");
        run("file.write('sub/new', 'x')");
    }
    done = true;
    swapper.join();
    EXPECT_EQ(std::distance(fs::directory_iterator(folder_ / "outside"), {}), 1);
}

TEST_F(FileLibrary, AReaderSeesTheOldOrTheNewFileAsAWhole) {
    const std::string old_text(100'000, 'a');
    const std::string new_text(300'000, 'b');
    run("file.write('a', ('a'):rep(100000))");
    std::atomic<bool> done{false};
    std::atomic<int> torn{0};
    std::thread reader([&] {
        while (!done) {
            std::ifstream in(data() / "a", std::ios::binary);
            const std::string text((std::istreambuf_iterator<char>(in)), {});
            if (text != old_text && text != new_text) ++torn;
        }
    });
    for (int i = 0; i < 50; ++i) {
        EXPECT_EQ(run("file.write('a', ('b'):rep(300000))"), "true nil nil");
        EXPECT_EQ(run("file.write('a', ('a'):rep(100000))"), "true nil nil");
    }
    done = true;
    reader.join();
    EXPECT_EQ(torn, 0);
    EXPECT_EQ(std::distance(fs::directory_iterator(data()), {}), 1);
}

TEST_F(FileLibrary, AFailedWriteLeavesNothing) {
    if (::geteuid() == 0) {
        struct stat info;
        // Root is refused nothing but what the file system can't do.
        run("file.mkdir 'sub/full'");
        EXPECT_EQ(code_of("file.write('sub', 'x')"), "invalid nil nil");
        EXPECT_EQ(::stat((data() / "sub").c_str(), &info), 0);
        EXPECT_TRUE(S_ISDIR(info.st_mode));
    } else {
        run("file.mkdir 'sub'");
        ::chmod((data() / "sub").c_str(), 0500);
        EXPECT_EQ(code_of("file.write('sub/a', 'x')"), "unavailable nil nil");
        ::chmod((data() / "sub").c_str(), 0700);
    }
    EXPECT_EQ(run("unpack(file.list())"), "sub/ nil nil");
}

TEST_F(FileLibrary, NoDescriptorIsLeft) {
    const auto count = [] { return std::distance(fs::directory_iterator("/proc/self/fd"), {}); };
    run("file.mkdir 'a/b'");
    const auto before = count();
    for (int i = 0; i < 20; ++i) {
        run("file.write('a/b/c', 'x')");
        run("file.append('a/b/c', 'x')");
        run("file.read 'a/b/c'");
        run("file.read('a/b/c', 1)");
        run("file.read 'a/b/none'");
        run("file.read 'a/b/c/d'");
        run("file.read 'a'");
        run("file.list 'a'");
        run("file.list 'a/b/c'");
        run("file.exists 'a/b/c'");
        run("file.size 'a'");
        run("file.write('a', 'x')");
        run("file.remove 'a'");
    }
    EXPECT_EQ(count(), before);
}

}  // namespace
}  // namespace perilune
