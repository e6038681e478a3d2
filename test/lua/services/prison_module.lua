-- A module of the game: each service has its own.
return { secret = nil }
