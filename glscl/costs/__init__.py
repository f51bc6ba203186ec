"""What similarity heads cost: closed forms, and tools that check them."""
