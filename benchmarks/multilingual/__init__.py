"""Fine-tune a real multilingual encoder on several source languages and watch what it learns, keeps and transfers."""
