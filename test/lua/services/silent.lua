-- Has no on_start and no commands.
return {}
