// Network: groups of connections.

#include "net/network.h"

namespace perilune {

namespace {

constexpr std::size_t kFirstSweep = 64;

}  // namespace

struct Network::Group {
    const Handle owner;
    std::mutex mutex;
    // Guarded by mutex: members, and where each stands among them.
    std::vector<ConnectionId> members;
    std::unordered_map<ConnectionId, std::size_t> places;
    std::size_t sweep_at = kFirstSweep;  // members, when the closed ones are taken out

    explicit Group(Handle owner_) : owner(owner_) {}
    bool remove(ConnectionId member) {
        const auto found = places.find(member);
        if (found == places.end()) return false;
        const std::size_t place = found->second;
        places.erase(found);
        if (place + 1 != members.size()) {
            members[place] = members.back();
            places[members[place]] = place;
        }
        members.pop_back();
        return true;
    }
};

Result<GroupId> Network::group_create(Handle owner) {
    const std::unique_lock lock(groups_mutex_);
    std::vector<GroupId>& mine = group_owners_[owner];
    if (mine.size() >= kMaxGroups) {
        ++counters_.groups_refused;
        return Status::error(StatusCode::too_large,
                             "a service has %zu groups of connections at most, and this one has "
                             "them: close those that aren't used any more",
                             kMaxGroups);
    }
    const GroupId id{next_group_++};
    groups_.emplace(id.value, std::make_shared<Group>(owner));
    mine.push_back(id);
    ++counters_.groups;
    return id;
}

Status Network::no_group() { return Status::error(StatusCode::not_found, "no such group"); }

std::shared_ptr<Network::Group> Network::find_group(GroupId id) {
    const std::shared_lock lock(groups_mutex_);
    const auto found = groups_.find(id.value);
    return found == groups_.end() ? nullptr : found->second;
}

Status Network::group_close(GroupId id) {
    const std::unique_lock lock(groups_mutex_);
    const auto found = groups_.find(id.value);
    if (found == groups_.end()) return no_group();
    const auto owned = group_owners_.find(found->second->owner);
    std::erase(owned->second, id);
    if (owned->second.empty()) group_owners_.erase(owned);
    groups_.erase(found);
    --counters_.groups;
    return {};
}

Status Network::group_add(GroupId id, ConnectionId member) {
    const std::shared_ptr<Group> group = find_group(id);
    if (group == nullptr) return no_group();
    const std::lock_guard lock(group->mutex);
    if (!find_writable(member)) return dead_connection();
    if (group->members.size() >= group->sweep_at) sweep_group(*group);
    if (group->places.try_emplace(member, group->members.size()).second) {
        group->members.push_back(member);
    }
    return {};
}

// Members that have been closed leave when the group is written to; in one that is joined and
// not written to they would gather. Under the group's mutex.
void Network::sweep_group(Group& group) {
    for (std::size_t i = 0; i < group.members.size();) {
        const ConnectionId member = group.members[i];
        if (find_writable(member)) {
            ++i;
        } else {  // the last one takes its place, and is looked at next
            group.remove(member);
        }
    }
    group.sweep_at = std::max(kFirstSweep, 2 * group.members.size());
}

void Network::close_groups(Handle owner) {
    const std::unique_lock lock(groups_mutex_);
    const auto owned = group_owners_.find(owner);
    if (owned == group_owners_.end()) return;
    for (const GroupId id : owned->second) groups_.erase(id.value);
    counters_.groups -= owned->second.size();
    group_owners_.erase(owned);
}

Result<bool> Network::group_remove(GroupId id, ConnectionId member) {
    const std::shared_ptr<Group> group = find_group(id);
    if (group == nullptr) return no_group();
    const std::lock_guard lock(group->mutex);
    return group->remove(member);
}

Result<std::size_t> Network::group_size(GroupId id) {
    const std::shared_ptr<Group> group = find_group(id);
    if (group == nullptr) return no_group();
    const std::lock_guard lock(group->mutex);
    return group->members.size();
}

Result<std::size_t> Network::group_write(GroupId id, std::string_view body, ConnectionId except) {
    const std::shared_ptr<Group> group = find_group(id);
    if (group == nullptr) return no_group();
    SharedFrame frame{body, {}};
    std::size_t count = 0;
    // Under the lock, so that two writers reach all members in one order.
    const std::lock_guard lock(group->mutex);
    for (std::size_t i = 0; i < group->members.size();) {
        const ConnectionId member = group->members[i];
        if (member != except) {
            const Status written = write_shared(member, frame);
            if (written.code() == StatusCode::too_large) return written;
            if (!written.ok()) {  // the last one takes its place, and is looked at next
                group->remove(member);
                continue;
            }
            ++count;
        }
        ++i;
    }
    return count;
}

}  // namespace perilune
