"""Trial orchestration: config -> scales -> trials -> jobs -> outcomes, and the views of them."""
