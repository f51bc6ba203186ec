"""What similarity heads cost, in closed form."""
