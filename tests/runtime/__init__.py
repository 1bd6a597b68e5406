"""Real container runtimes drive the plugin, its daemons and the emulated cloud behind them."""
