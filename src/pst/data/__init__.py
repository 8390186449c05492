"""Readers of people's own data, in folders, YOLO, COCO and masks; and an embedded set, which needs no download."""
